import importlib
import itertools
import pathlib

import ml_collections
import pytest

from configs import common, flags
from configs.fields import field_names
from kernels.ms_deform_attn import IMPLEMENTATIONS
from ltss_jax.models import backbones, dino, mask2former

CONFIG_FILES = common.CHOICES["data.name"]

# By hand from the released recipes: what all of Mask2Former's share, and what DeepLabV3+ has of its
# own. Fields that the release says nothing of are in the table of test_fields.py alone.
RELEASE = {
  "batch_size": 16,
  "data.crop_size": 512,
  "data.base_size": 512,
  "data.min_factor": 0.5,
  "data.max_factor": 2.0,
  "data.max_size": 2048,
  "data.color_jitter": True,
  "data.max_category_share": 1.0,
  "data.flip": True,
  "data.sampler": "uniform",
  "data.copy_paste": "none",
  "model.name": "mask2former",
  "model.backbone": "resnet50",
  "model.backbone_norm": "frozen_batch_norm",
  "model.dtype": "bfloat16",
  "model.channels": 256,
  "model.num_queries": 100,
  "model.encoder_layers": 6,
  "model.decoder_layers": 9,
  "model.num_heads": 8,
  "model.encoder_width": 1024,
  "model.decoder_width": 2048,
  "model.class_head": "softmax",
  "model.aspp_dilations": (6, 12, 18),
  "loss.class_loss": "cross_entropy",
  "loss.num_points": 12_544,
  "loss.oversample_ratio": 3.0,
  "loss.importance_sample_ratio": 0.75,
  "loss.class_weight": 2.0,
  "loss.mask_weight": 5.0,
  "loss.dice_weight": 5.0,
  "loss.no_object_weight": 0.1,
  "loss.frequency_matcher": False,
  "loss.query_scale": 2.0,
  "loss.ignored_pixels": "background",
  "loss.hard_pixel_fraction": 0.2,
  "optimizer.name": "adamw",
  "optimizer.learning_rate": 1e-4,
  "optimizer.momentum": 0.9,
  "optimizer.b1": 0.9,
  "optimizer.b2": 0.999,
  "optimizer.weight_decay": 0.05,
  "optimizer.backbone_multiplier": 0.1,
  "optimizer.clip_norm": 0.01,
  "optimizer.poly_power": 0.9,
  # No warm-up anywhere: the release has one for MHP-v2-LT alone, inherited by accident.
  "optimizer.warmup_steps": 0,
  "eval.every_steps": 10_000,
  "eval.min_size": 512,
  "eval.max_size": 2048,
  "checkpoint.every_steps": 5_000,
}
# What the release has otherwise for a model and for a data set.
MODELS = {
  "mask2former": {},
  "deeplabv3plus": {
    "model.name": "deeplabv3plus",
    "model.backbone_norm": "batch_norm",
    "model.dtype": "float32",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.01,
    "optimizer.weight_decay": 1e-4,
    "optimizer.backbone_multiplier": 1.0,
    "optimizer.clip_norm": 0.0,
  },
}
# What the backbones of a model begin with.
BACKBONES = {
  "mask2former": ("resnet", "swin", "vit_b"),
  "deeplabv3plus": ("resnet",),
  "eomt": ("dinov2_", "dinov3_", "vit_small"),
}
LONGER_SIDE_1333 = {"data.max_size": 1333, "eval.max_size": 1333}
RECIPES = {
  "ade20k": {"train.steps": 160_000},
  "ade20k_full": {"train.steps": 200_000},
  "coco_stuff": {"train.steps": 900_000, **LONGER_SIDE_1333},
  "coco_stuff_lt": {"train.steps": 320_000, **LONGER_SIDE_1333},
  "mhp_v2": {"train.steps": 120_000, **LONGER_SIDE_1333},
  "mhp_v2_lt": {"train.steps": 52_000, **LONGER_SIDE_1333},
}

# Names that the command line promises.
PROMISED_FIELDS = {
  "seed",
  "batch_size",
  "data.dir",
  "data.root",
  "train.steps",
  "eval.every_steps",
  "eval.min_size",
  "checkpoint.every_steps",
}


def build(name: str, variants: str = "") -> ml_collections.ConfigDict:
  config = importlib.import_module(f"configs.{name}").get_config(variants)
  if name == "folder":
    config.data.root = "photographs"
  return config


def flat(config: ml_collections.ConfigDict) -> dict:
  return {field: config[field] for field in field_names(config)}


def changes(config: ml_collections.ConfigDict, base: ml_collections.ConfigDict) -> dict:
  """The fields with another value than the base has."""
  return {field: value for field, value in flat(config).items() if value != base[field]}


def all_variants() -> list[str]:
  choices = [
    ("", *(f"{key}={value}" for value in values)) for key, values in common.VARIANTS.items()
  ]
  return [",".join(filter(None, parts)) for parts in itertools.product(*choices)]


def test_every_config_file_is_listed():
  files = {path.stem for path in pathlib.Path(common.__file__).parent.glob("*.py")}
  assert files - flags._NO_CONFIG_FILES == set(CONFIG_FILES)


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_every_config_and_variant_is_valid(name):
  for variants in all_variants():
    config = build(name, variants)
    assert config.data.name == name
    for pair in filter(None, variants.split(",")):
      key, value = pair.split("=")
      if key != "method":
        assert config.model[{"model": "name", "backbone": "backbone"}[key]] == value
    model = config.model.name
    if not config.model.backbone.startswith(BACKBONES[model]):
      match = f"'{model}', which needs one whose name begins with '{BACKBONES[model][0]}"
      with pytest.raises(ValueError, match=match):
        common.validate(config)
    elif model == "deeplabv3plus" and "frequency_matcher" in variants:
      match = "frequency_matcher=True needs .*'mask2former' or 'eomt'"
      with pytest.raises(ValueError, match=match):
        common.validate(config)
    else:
      common.validate(config)


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_every_config_has_the_same_fields_with_the_same_types(name):
  config, defaults = build(name), common.get_config()
  names = field_names(config)
  assert names == field_names(defaults)
  assert PROMISED_FIELDS <= set(names)
  assert {n: type(config[n]) for n in names} == {n: type(defaults[n]) for n in names}


def test_choices_are_what_the_models_offer():
  assert set(common.CHOICES["model.backbone"]) == {*backbones.NAMES, *dino.CONFIGS}


def test_implementations_of_deformable_attention_are_those_of_the_kernels():
  assert common.CHOICES["model.deformable_attention"] == ("auto", *IMPLEMENTATIONS)
  assert set(common.CHOICES["model.backbone_norm"]) == set(backbones.NORMS)
  assert set(common.CHOICES["model.class_head"]) == set(mask2former.CLASS_HEADS)


def test_the_defaults_are_the_recipe_of_the_release():
  config = common.get_config()
  assert {field: config[field] for field in RELEASE} == RELEASE


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_data_set_changes_the_recipe_as_the_release_does(name, model):
  expected = {"data.name": name} | MODELS[model] | RECIPES[name]
  if (name, model) == ("mhp_v2_lt", "mask2former"):
    expected["eval.every_steps"] = 5_000
  changed = changes(build(name, f"model={model}"), common.get_config())
  assert changed == expected
  assert changes(build(name, f"backbone=resnet50,model={model}"), common.get_config()) == expected
  if model == "mask2former":
    assert flat(build(name)) == flat(build(name, "model=mask2former"))


# By hand from EoMT's release: what it has for every encoder, and for each kind of them on ADE20K,
# where 31 or 16 passes over 20,210 images are 39,153 or 20,208 updates.
EOMT = {
  "model.name": "eomt",
  "optimizer.backbone_multiplier": 1.0,
  "model.scan_blocks": True,
  "optimizer.schedule": "two_stage",
  "eval.max_size": 100_000,
  "eval.scales_max_size": 100_000,
  "eval.round_half_even": True,
}
EOMT_ENCODERS = {
  "dinov2_l": {
    "model.num_blocks": 4,
    "optimizer.layer_decay": 0.8,
    "optimizer.warmup_steps": 500,
    "optimizer.backbone_warmup_steps": 1_000,
    "loss.mask_annealing_starts": (6_520, 13_040, 19_560, 26_080),
    "loss.mask_annealing_ends": (13_040, 19_560, 26_080, 32_600),
  },
  "dinov3_l": {
    "model.num_blocks": 4,
    "optimizer.learning_rate": 2e-4,
    "optimizer.warmup_steps": 2_000,
    "optimizer.backbone_warmup_steps": 3_000,
    "loss.mask_annealing_starts": (0, 6_520, 9_780, 13_040),
    "loss.mask_annealing_ends": (3_000, 9_780, 13_040, 16_300),
  },
}
EOMT_STEPS = {"dinov2_l": 39_153, "dinov3_l": 20_208}
ANNEALING = ("loss.mask_annealing_starts", "loss.mask_annealing_ends")


@pytest.mark.parametrize("backbone", EOMT_ENCODERS)
@pytest.mark.parametrize("name", RECIPES)
def test_eomt_has_the_recipe_of_its_release(name, backbone):
  config = build(name, f"model=eomt,backbone={backbone}")
  changed = changes(config, common.get_config())
  expected = EOMT | EOMT_ENCODERS[backbone] | {"model.backbone": backbone, "data.name": name}
  for field in ANNEALING:  # in proportion everywhere
    steps = [round(share * EOMT_STEPS[backbone]) for share in changed.pop(field)]
    assert tuple(steps) == expected.pop(field)
  steps = changed.pop("train.steps")
  assert changed.pop("data.max_size", None) == RECIPES[name].get("data.max_size")
  assert changed == expected
  if name == "ade20k":
    assert steps == EOMT_STEPS[backbone]


@pytest.mark.parametrize("name", RECIPES)
def test_eomt_sees_every_data_set_as_often_as_in_its_release(name):
  images = {"ade20k_full": 25_574, "coco_stuff": 118_287, "coco_stuff_lt": 40_679}
  images |= {"ade20k": 20_210, "mhp_v2": 15_403, "mhp_v2_lt": 6_931}
  for backbone, passes in (("dinov2_g", 31), ("dinov3_s", 16)):
    config = build(name, f"model=eomt,backbone={backbone}")
    assert config.train.steps == passes * (images[name] // 16)


def test_eomt_takes_an_encoder_of_its_own_where_none_is_named():
  assert build("ade20k", "model=eomt").model.backbone == "dinov2_l"
  assert build("shapes_lt", "model=eomt").model.backbone == "vit_small"
  last_blocks = {"dinov2_s": 3, "dinov2_b": 3, "dinov2_g": 5, "dinov3_s": 3, "dinov3_b": 3}
  for backbone, number in last_blocks.items():
    config = build("ade20k", f"model=eomt,backbone={backbone}")
    assert config.model.num_blocks == number == len(config.loss.mask_annealing_starts)


# By hand from the released recipes: crop, base size, limit on the longer side, test size and limit,
# updates between evaluations, norm of the backbone.
@pytest.mark.parametrize(
  ("name", "backbone", "expected"),
  [
    ("ade20k", "resnet101", (512, 512, 2048, 512, 2048, 10_000, "batch_norm")),
    ("ade20k", "swin_t", (512, 512, 2048, 512, 2048, 10_000, "frozen_batch_norm")),
    ("ade20k", "swin_s", (512, 512, 2048, 512, 2048, 10_000, "frozen_batch_norm")),
    ("ade20k", "swin_b", (640, 640, 2560, 640, 2560, 5_000, "frozen_batch_norm")),
    ("ade20k", "swin_l", (640, 640, 2560, 640, 2560, 5_000, "frozen_batch_norm")),
    ("ade20k", "vit_b", (640, 640, 2560, 640, 2560, 10_000, "frozen_batch_norm")),
    ("ade20k_full", "swin_l", (640, 640, 2560, 640, 2560, 5_000, "frozen_batch_norm")),
  ],
)
def test_recipes_of_other_backbones(name, backbone, expected):
  config, standard = build(name, f"backbone={backbone}"), build(name)
  assert expected == (
    config.data.crop_size,
    config.data.base_size,
    config.data.max_size,
    config.eval.min_size,
    config.eval.max_size,
    config.eval.every_steps,
    config.model.backbone_norm,
  )
  for group in ("optimizer", "loss", "train", "batch_size"):
    assert config[group] == standard[group]


# What each method changes, for every data set; the thresholds come from the data (0) but for one.
METHOD_FIELDS = {
  "rfs": {"data.sampler": "repeat_factor"},
  "copy_paste": {"data.copy_paste": "random"},
  "seesaw": {"loss.class_loss": "seesaw"},
  "frequency_matcher": {"loss.frequency_matcher": True},
}


@pytest.mark.parametrize("model", common.VARIANTS["model"])
@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_method_changes_its_own_fields_only(name, model):
  baseline = build(name, f"model={model}")
  assert not changes(build(name, f"model={model},method=baseline"), baseline)
  for method, fields in METHOD_FIELDS.items():
    config = build(name, f"method={method},model={model}")
    expected = dict(fields)
    if method == "seesaw" and model in ("mask2former", "eomt"):
      expected["model.class_head"] = "seesaw"
    elif method == "seesaw" and baseline.loss.hard_pixel_fraction < 1:
      expected["loss.hard_pixel_fraction"] = 1.0
    if (name, method) == ("ade20k", "rfs"):  # the release's recipe
      expected |= {"data.repeat_level": "pixel", "data.repeat_threshold": 0.001}
    assert changes(config, baseline) == expected


def test_methods_combine_in_any_order():
  config = build("ade20k", "method=seesaw+copy_paste + rfs")
  assert changes(config, build("ade20k")) == {
    "data.sampler": "repeat_factor",
    "data.repeat_level": "pixel",
    "data.repeat_threshold": 0.001,
    "data.copy_paste": "random",
    "loss.class_loss": "seesaw",
    "model.class_head": "seesaw",
  }
  assert flat(config) == flat(build("ade20k", "method=rfs+copy_paste+seesaw"))


# What `make demo` and docs/training.md report was measured with these.
def test_small_deeplabv3plus_recipes():
  for name, expected in {
    "shapes_lt": ("adamw", 4e-3, 0.01, 50, 0.2),
    "folder": ("sgd", 0.05, 1e-4, 50, 1.0),
  }.items():
    config = build(name, "model=deeplabv3plus")
    optimizer = config.optimizer
    assert expected == (
      optimizer.name,
      optimizer.learning_rate,
      optimizer.weight_decay,
      optimizer.warmup_steps,
      config.loss.hard_pixel_fraction,
    )
    assert (optimizer.backbone_multiplier, optimizer.clip_norm) == (1.0, 0.0)
    assert (config.model.backbone, config.model.dtype) == ("resnet_small", "float32")


@pytest.mark.parametrize("name", ["shapes_lt", "folder"])
def test_a_small_mask2former_starts_from_random_weights(name):
  config = build(name, "model=mask2former")
  assert (config.model.backbone, config.model.backbone_norm) == ("resnet_small", "batch_norm")
  assert (config.model.channels, config.model.dtype) == (64, "float32")
  assert (config.optimizer.name, config.optimizer.backbone_multiplier) == ("adamw", 1.0)
  assert config.optimizer.learning_rate > build("ade20k").optimizer.learning_rate


@pytest.mark.parametrize("name", ["shapes_lt", "folder"])
def test_a_large_mask2former_is_fine_tuned_as_published(name):
  config = build(name, "model=mask2former,backbone=resnet50")
  assert config.loss == common.get_config().loss
  assert (config.optimizer.learning_rate, config.optimizer.clip_norm) == (1e-4, 0.01)
  assert config.optimizer.backbone_multiplier == 0.1


def test_configs_share_no_state():
  first = common.get_config()
  first.data.crop_size = 64
  assert common.get_config().data.crop_size == 512
