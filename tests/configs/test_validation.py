import math

import pytest

from configs import common, shapes_lt


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    (
      "model.backbone",
      "resnet52",
      "config.model.backbone='resnet52' is unknown; nearest valid: 'resnet50';"
      " valid: resnet50, resnet101, swin_t, swin_s, swin_b, swin_l, vit_b, resnet_small,"
      " dinov2_s, dinov2_b, dinov2_l, dinov2_g, dinov3_s, dinov3_b, dinov3_l, vit_small, swin_mini,"
      " vit_mini, dinov2_mini, dinov3_mini",
    ),
    (
      "optimizer.name",
      "adam",
      "config.optimizer.name='adam' is unknown; nearest valid: 'adamw'; valid: sgd, adamw",
    ),
    ("batch_size", 0, "config.batch_size=0 must be at least 1; nearest valid: 1"),
    ("data.crop_size", 20, "config.data.crop_size=20 must be 0 or at least 32; nearest valid: 32"),
    ("data.base_size", -5, "config.data.base_size=-5 must be 0 or at least 32; nearest valid: 0"),
    (
      "loss.hard_pixel_fraction",
      1.5,
      "config.loss.hard_pixel_fraction=1.5 must be greater than 0 and at most 1; nearest valid: 1",
    ),
    (
      "loss.hard_pixel_fraction",
      0.0,
      "config.loss.hard_pixel_fraction=0.0 must be greater than 0 and at most 1",
    ),
    (
      "model.aspp_dropout",
      1.0,
      "config.model.aspp_dropout=1.0 must be at least 0 and less than 1",
    ),
    (
      "model.drop_path",
      -0.7,
      "config.model.drop_path=-0.7 must be -1 or at least 0 and less than 1; nearest valid: -1",
    ),
    (
      "optimizer.ema_decay",
      1.0,
      "config.optimizer.ema_decay=1.0 must be at least 0 and less than 1",
    ),
    (
      "optimizer.layer_decay",
      0.0,
      "config.optimizer.layer_decay=0.0 must be greater than 0 and at most 1",
    ),
    (
      "loss.oversample_ratio",
      0.5,
      "config.loss.oversample_ratio=0.5 must be at least 1; nearest valid: 1",
    ),
    ("model.max_targets", 0, "config.model.max_targets=0 must be at least 1; nearest valid: 1"),
    (
      "optimizer.learning_rate",
      math.nan,
      "config.optimizer.learning_rate=nan must be greater than 0",
    ),
    (
      "optimizer.learning_rate",
      math.inf,
      "config.optimizer.learning_rate=inf must be greater than 0",
    ),
    (
      "model.aspp_dilations",
      ("a",),
      "config.model.aspp_dilations=('a',) must be whole numbers of at least 1, as in (6, 12, 18)",
    ),
    (
      "data.min_factor",
      3.0,
      "config.data.min_factor=3.0 and config.data.max_factor=1.5 must have a multiple of 0.1"
      " between them: scale factors are drawn from those",
    ),
    (
      "data.sampler",
      "rfs",
      "config.data.sampler='rfs' is unknown; nearest valid: 'repeat_factor';"
      " valid: uniform, repeat_factor",
    ),
    (
      "data.repeat_threshold",
      1.5,
      "config.data.repeat_threshold=1.5 must be at least 0 and at most 1; nearest valid: 1",
    ),
    (
      "data.copy_paste_max_scale",
      0.5,
      "config.data.copy_paste_min_scale=1.0 must be at most config.data.copy_paste_max_scale=0.5",
    ),
    (
      "data.copy_paste_classes",
      (3, -1),
      "config.data.copy_paste_classes=(3, -1) must be train ids, whole numbers of at least 0,"
      " as in (0, 4); () pastes all classes",
    ),
    (
      "data.copy_paste_flip",
      True,
      "config.data.copy_paste='none' does not go with the other config.data.copy_paste_* fields;"
      " set it to 'random' or 'rare', or leave them at their defaults",
    ),
    ("eval.min_size", 4096, "config.eval.min_size=4096 must be at most config.eval.max_size=2048"),
    (
      "eval.scales",
      (512, 0.5),
      "config.eval.scales=(512, 0.5) must be shorter sides, whole numbers of at least 1, as in"
      " (384, 512, 640); () keeps config.eval.min_size",
    ),
    (
      "eval.scales",
      (512, 4096),
      "config.eval.scales_max_size=3584 must be at least the largest of config.eval.scales="
      "(512, 4096); nearest valid: 4096",
    ),
    (
      "eval.window_stride",
      64,
      "config.eval.window_stride=64 must be at most config.eval.window=0, or pixels between the"
      " windows are never seen; 0 is two thirds of it",
    ),
    (
      "export.platforms",
      ("cpu", "gpu"),
      "config.export.platforms=('cpu', 'gpu') holds 'gpu'; valid: cpu, cuda, rocm, tpu (cuda is"
      " NVIDIA's, rocm AMD's)",
    ),
    (
      "export.platforms",
      ("cpu", "cpu"),
      "config.export.platforms=('cpu', 'cpu') must name at least one platform, and each once, as in"
      " ('cpu', 'cuda')",
    ),
    (
      "train.profile_steps",
      (12, 10),
      "config.train.profile_steps=(12, 10) must be the first and the last step to trace, whole"
      " numbers of at least 1, as in (10, 12); () traces none",
    ),
    (
      "train.profile_steps",
      (0,),
      "config.train.profile_steps=(0,) must be the first and the last step to trace, whole numbers"
      " of at least 1, as in (10, 12); () traces none",
    ),
    (
      "train.grad_accumulation",
      6,
      "config.batch_size=8 does not divide into config.train.grad_accumulation=6 equal"
      " micro-batches; nearest valid: 2 micro-batches",
    ),
  ],
)
def test_wrong_value_names_field_value_and_nearest(field, value, message):
  config = shapes_lt.get_config()
  config.train.steps = 800
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError) as raised:
    common.validate(config)
  assert str(raised.value) == message


@pytest.mark.parametrize(
  ("variants", "field", "value", "message"),
  [
    (
      "model=deeplabv3plus",
      "model.backbone",
      "swin_t",
      "config.model.backbone='swin_t' does not fit config.model.name='deeplabv3plus', which needs"
      " one whose name begins with 'resnet'; model=mask2former takes this backbone",
    ),
    (
      "model=mask2former",
      "model.backbone",
      "dinov2_s",
      "config.model.backbone='dinov2_s' does not fit config.model.name='mask2former', which needs"
      " one whose name begins with 'resnet' or 'swin' or 'vit_b' or 'vit_mini'; model=eomt takes"
      " this backbone",
    ),
    (
      "model=eomt",
      "data.crop_size",
      100,
      "config.data.crop_size=100 must be a multiple of 16, the side of the patches of"
      " config.model.name='eomt'; nearest valid: 96",
    ),
    (
      "model=eomt",
      "loss.mask_annealing_starts",
      (0.1, 0.2, 0.3),
      "config.loss.mask_annealing_starts=(0.1, 0.2, 0.3) must be a share of the training, from 0 to"
      " 1, for each of the config.model.num_blocks=2 blocks with queries",
    ),
    (
      "model=eomt",
      "loss.mask_annealing_ends",
      (0.1, 1.0),
      "config.loss.mask_annealing_ends=(0.1, 1.0) must not be below"
      " config.loss.mask_annealing_starts=(0.16666666666666666, 0.6666666666666666)",
    ),
    (
      "model=deeplabv3plus",
      "optimizer.layer_decay",
      0.8,
      "config.optimizer.layer_decay=0.8 needs config.model.name='eomt', not 'deeplabv3plus'; leave"
      " it at 1.0, or choose model=eomt",
    ),
    (
      "model=mask2former",
      "model.channels",
      100,
      "config.model.channels=100 must be a multiple of 32, the groups of the decoders' group norms;"
      " nearest valid: 96",
    ),
    (
      "model=mask2former",
      "model.num_heads",
      6,
      "config.model.channels=64 does not divide into config.model.num_heads=6 equal heads;"
      " nearest valid: 4 heads",
    ),
    (
      "model=deeplabv3plus",
      "loss.frequency_matcher",
      True,
      "config.loss.frequency_matcher=True needs config.model.name='mask2former' or 'eomt', not"
      " 'deeplabv3plus'; leave it at False, or choose model=mask2former",
    ),
    (
      "model=deeplabv3plus",
      "loss.ignored_pixels",
      "left_out",
      "config.loss.ignored_pixels='left_out' needs config.model.name='mask2former' or 'eomt', not"
      " 'deeplabv3plus'; leave it at 'background', or choose model=mask2former",
    ),
    (
      "model=deeplabv3plus",
      "model.pixel_head",
      True,
      "config.model.pixel_head=True needs config.model.name='mask2former', not"
      " 'deeplabv3plus'; leave it at False, or choose model=mask2former",
    ),
    (
      "model=deeplabv3plus",
      "model.class_head",
      "seesaw",
      "config.model.class_head='seesaw' needs config.model.name='mask2former' or 'eomt', not"
      " 'deeplabv3plus'; leave it at 'softmax', or choose model=mask2former",
    ),
    (
      "model=mask2former",
      "loss.class_loss",
      "seesaw",
      "config.loss.class_loss='seesaw' does not fit config.model.class_head='softmax'; it needs"
      " config.model.class_head='seesaw'; the variant method=seesaw sets both",
    ),
  ],
)
def test_fields_of_the_model_fit_each_other(variants, field, value, message):
  config = shapes_lt.get_config(variants)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError) as raised:
    common.validate(config)
  assert str(raised.value) == message


def test_warmups_need_their_schedule_and_leave_steps_for_the_rest():
  config = shapes_lt.get_config()
  config.optimizer.update(warmup_steps=300, backbone_warmup_steps=500)
  with pytest.raises(ValueError) as raised:
    common.validate(config)
  assert str(raised.value) == (
    "config.optimizer.backbone_warmup_steps=500 needs config.optimizer.schedule='two_stage', not"
    " 'poly'; set one of them"
  )
  config.optimizer.schedule = "two_stage"
  config.train.steps = 0  # which the data will decide
  common.validate(config)
  config.train.steps = 801
  common.validate(config)
  config.train.steps = 800
  with pytest.raises(ValueError) as raised:
    common.validate(config)
  assert str(raised.value) == (
    "config.optimizer.warmup_steps=300 and config.optimizer.backbone_warmup_steps=500 must add up"
    " to less than config.train.steps=800, over the rest of which the rates fall"
  )


def test_windows_need_no_rounded_shapes():
  config = shapes_lt.get_config()
  config.eval.window, config.eval.shape_multiple = 64, 32
  with pytest.raises(ValueError, match=r"config\.eval\.window=64 .*shape_multiple=32"):
    common.validate(config)
  config.eval.shape_multiple = 1
  common.validate(config)


@pytest.mark.parametrize(
  ("field", "value", "off"),
  [("window", 64, 0), ("window_stride", 32, 0), ("shape_multiple", 32, 1)],
)
def test_a_model_of_square_inputs_places_its_windows_itself(field, value, off):
  if field != "window_stride":
    config = shapes_lt.get_config("model=mask2former")
    config.eval[field] = value
    common.validate(config)
  config = shapes_lt.get_config("model=eomt")
  config.eval[field] = value
  with pytest.raises(ValueError) as raised:
    common.validate(config)
  assert str(raised.value) == (
    f"config.eval.{field}={value} does not go with config.model.name='eomt', which sees every image"
    f" in windows of config.data.crop_size; leave it at {off}"
  )
  config.eval[field] = off
  common.validate(config)


def test_fields_of_the_other_model_are_not_checked():
  config = shapes_lt.get_config("model=deeplabv3plus")
  config.model.channels = 100
  common.validate(config)
  config.model.name = "mask2former"
  with pytest.raises(ValueError, match=r"config\.model\.channels=100"):
    common.validate(config)


def test_a_seesaw_head_alone_is_valid_for_evaluating_converted_weights():
  config = shapes_lt.get_config()
  config.model.class_head = "seesaw"
  common.validate(config)
  config = shapes_lt.get_config("model=deeplabv3plus,method=seesaw")
  assert config.model.class_head == "softmax"
  common.validate(config)


def test_config_without_a_field():
  config = shapes_lt.get_config()
  del config.eval.min_size
  with pytest.raises(ValueError, match=r"config\.eval\.min_size is missing"):
    common.validate(config)


def test_folder_needs_a_root():
  config = shapes_lt.get_config()
  config.data.name = "folder"
  with pytest.raises(ValueError, match=r"config\.data\.root='' .* --config\.data\.root=DIR"):
    common.validate(config)
