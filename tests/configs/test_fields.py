"""All fields: what each is where nobody sets it, and whether its values are checked one by one."""

from configs import common
from configs.fields import field_names

# A new field is noted in one of these tables, and in no other test that does not use it.
# Of these fields choices or a range are checked.
CHECKED = {
  "batch_size": 16,
  "checkpoint.every_steps": 5000,
  "checkpoint.keep": 3,
  "data.base_size": 512,
  "data.copy_paste": "none",
  "data.copy_paste_max_scale": 1.0,
  "data.copy_paste_min_scale": 1.0,
  "data.crop_size": 512,
  "data.ignore_label": -1,
  "data.max_category_share": 1.0,
  "data.max_factor": 2.0,
  "data.max_size": 2048,
  "data.min_factor": 0.5,
  "data.name": "",
  "data.num_workers": 8,
  "data.prefetch": 4,
  "data.repeat_level": "image",
  "data.repeat_reduce": "max",
  "data.repeat_threshold": 0.0,
  "data.sampler": "uniform",
  "eval.batch_size": 8,
  "eval.dtype": "float32",
  "eval.every_steps": 10000,
  "eval.logit_adjustment": 0.0,
  "eval.max_size": 2048,
  "eval.min_size": 512,
  "eval.scales_max_size": 3584,
  "eval.shape_multiple": 1,
  "eval.step": 0,
  "eval.window": 0,
  "eval.window_stride": 0,
  "export.batch_size": 0,
  "export.height": 0,
  "export.width": 0,
  "init.step": -1,
  "loss.class_balanced_beta": 0.9999,
  "loss.class_loss": "cross_entropy",
  "loss.class_weight": 2.0,
  "loss.dice_weight": 5.0,
  "loss.focal_gamma": 2.0,
  "loss.hard_pixel_fraction": 0.2,
  "loss.ignored_pixels": "background",
  "loss.importance_sample_ratio": 0.75,
  "loss.logit_adjustment_tau": 1.0,
  "loss.mask_weight": 5.0,
  "loss.matcher": "scipy",
  "loss.no_object_weight": 0.1,
  "loss.num_points": 12544,
  "loss.oversample_ratio": 3.0,
  "loss.pixel_head_weight": 1.0,
  "loss.query_scale": 2.0,
  "loss.query_threshold": 0.0,
  "loss.seesaw_p": 1.2,
  "loss.seesaw_q": 1.0,
  "model.aspp_channels": 256,
  "model.aspp_dropout": 0.1,
  "model.backbone": "resnet50",
  "model.backbone_norm": "frozen_batch_norm",
  "model.channels": 256,
  "model.class_head": "softmax",
  "model.decoder_channels": 256,
  "model.decoder_layers": 9,
  "model.decoder_width": 2048,
  "model.deformable_attention": "auto",
  "model.drop_path": -1.0,
  "model.dtype": "bfloat16",
  "model.encoder_layers": 6,
  "model.encoder_width": 1024,
  "model.image_pooling": "global",
  "model.low_level_channels": 48,
  "model.max_targets": 64,
  "model.name": "mask2former",
  "model.num_heads": 8,
  "model.num_queries": 100,
  "optimizer.b1": 0.9,
  "optimizer.b2": 0.999,
  "optimizer.backbone_multiplier": 0.1,
  "optimizer.clip_norm": 0.01,
  "optimizer.learning_rate": 0.0001,
  "optimizer.momentum": 0.9,
  "optimizer.name": "adamw",
  "optimizer.poly_power": 0.9,
  "optimizer.warmup_steps": 0,
  "optimizer.weight_decay": 0.05,
  "predict.max_pixels": 67108864,
  "seed": 0,
  "train.grad_accumulation": 1,
  "train.log_every_steps": 100,
  "train.log_images": 4,
  "train.log_images_every_steps": 0,
  "train.max_nonfinite_steps": 5,
  "train.steps": 0,
}
# Switches, free text, and tuples, which configs/validation.py has checks for.
UNCHECKED = {
  "data.color_jitter": True,
  "data.copy_paste_classes": (),
  "data.copy_paste_flip": False,
  "data.copy_paste_repeat_factor": False,
  "data.dir": "data",
  "data.exact_pixels": False,
  "data.flip": True,
  "data.root": "",
  "eval.flip": False,
  "eval.save_json": False,
  "eval.scales": (),
  "export.platforms": ("cpu", "cuda", "tpu"),
  "export.scores": False,
  "init.checkpoint": "",
  "loss.frequency_matcher": False,
  "model.aspp_dilations": (6, 12, 18),
  "model.freeze_backbone": False,
  "model.pixel_head": False,
  "model.remat": False,
  "predict.save_json": False,
  "predict.save_scores": False,
  "predict.save_summary": False,
  "train.profile_steps": (),
  "train.report": True,
  "train.wandb_project": "",
}


def test_all_fields_with_their_defaults():
  assert not any(type(value) in (int, float) for value in UNCHECKED.values())
  config = common.get_config()
  checked = common.CHOICES | common.RANGES
  # As text: 1, 1.0 and True are not the same.
  found = {field: (repr(config[field]), field in checked) for field in field_names(config)}
  expected = {field: (repr(value), True) for field, value in CHECKED.items()}
  assert found == expected | {field: (repr(value), False) for field, value in UNCHECKED.items()}


def test_field_names_are_dotted():
  names = field_names(common.get_config())
  assert names == sorted(names)
  assert {"seed", "optimizer.learning_rate"} <= set(names)
  assert "optimizer" not in names
