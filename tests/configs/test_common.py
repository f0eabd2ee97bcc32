import importlib
import itertools
import pathlib

import ml_collections
import pytest

from configs import common, validation

CONFIG_FILES = (
  "shapes_lt",
  "folder",
  "coco_stuff_lt",
  "ade20k_full",
  "mhp_v2_lt",
  "coco_stuff",
  "ade20k",
  "mhp_v2",
)

# By hand from the released DeepLabV3+ recipes: steps, limit on the longer side.
RECIPES = {
  "ade20k": (160_000, 2048),
  "ade20k_full": (200_000, 2048),
  "coco_stuff": (900_000, 1333),
  "coco_stuff_lt": (320_000, 1333),
  "mhp_v2": (120_000, 1333),
  "mhp_v2_lt": (52_000, 1333),
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


def all_variants() -> list[str]:
  choices = [
    ("", *(f"{key}={value}" for value in values)) for key, values in common.VARIANTS.items()
  ]
  return [",".join(filter(None, parts)) for parts in itertools.product(*choices)]


def test_every_config_file_is_listed():
  no_configs = {"__init__", "common", "derive", "flags", "validation"}
  files = {path.stem for path in pathlib.Path(common.__file__).parent.glob("*.py")} - no_configs
  assert files == set(CONFIG_FILES)
  assert set(CONFIG_FILES) == set(validation.CHOICES["data.name"])


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_every_config_and_variant_is_valid(name):
  for variants in all_variants():
    config = build(name, variants)
    common.validate(config)
    assert config.data.name == name
    for pair in filter(None, variants.split(",")):
      key, value = pair.split("=")
      assert config.model[{"model": "name", "backbone": "backbone"}[key]] == value


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_every_config_has_the_same_fields_with_the_same_types(name):
  config, defaults = build(name), common.get_config()
  names = validation.field_names(config)
  assert names == validation.field_names(defaults)
  assert PROMISED_FIELDS <= set(names)
  assert {n: type(config[n]) for n in names} == {n: type(defaults[n]) for n in names}


def test_every_number_and_choice_is_checked():
  config = common.get_config()
  unchecked = set(validation.field_names(config)) - set(validation.CHOICES) - set(validation.RANGES)
  # Free text, switches, and the one field with a check of its own.
  assert unchecked == {
    "data.dir",
    "data.root",
    "data.color_jitter",
    "data.flip",
    "model.aspp_dilations",
  }


def test_variant_values_are_the_valid_field_values():
  assert tuple(common.VARIANTS["model"]) == validation.CHOICES["model.name"]
  assert tuple(common.VARIANTS["backbone"]) == validation.CHOICES["model.backbone"]


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_are_those_of_the_released_recipe(name):
  steps, max_size = RECIPES[name]
  config = build(name)
  assert config.batch_size == 16
  assert config.train.steps == steps
  assert config.data.to_dict() | {"num_workers": 0, "prefetch": 0} == {
    "name": name,
    "dir": "data",
    "root": "",
    "ignore_label": 255,
    "crop_size": 512,
    "base_size": 512,
    "min_factor": 0.5,
    "max_factor": 2.0,
    "max_size": max_size,
    "color_jitter": True,
    "flip": True,
    "num_workers": 0,
    "prefetch": 0,
  }
  assert config.eval.every_steps == 10_000
  assert config.checkpoint.every_steps == 5_000
  assert (config.eval.min_size, config.eval.max_size) == (512, max_size)
  assert (config.model.name, config.model.backbone) == ("deeplabv3plus", "resnet50")
  assert config.model.aspp_dilations == (6, 12, 18)
  optimizer = config.optimizer
  assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.01, 0.9)
  assert (optimizer.weight_decay, optimizer.poly_power) == (1e-4, 0.9)
  # No warm-up anywhere: the release has one for MHP-v2-LT alone, inherited by accident.
  assert (optimizer.backbone_multiplier, optimizer.clip_norm, optimizer.warmup_steps) == (1.0, 0, 0)
  assert config.loss.hard_pixel_fraction == 0.2


def test_variant_overwrites_only_what_differs():
  default = build("shapes_lt").to_dict()
  chosen = build("shapes_lt", "backbone=resnet101").to_dict()
  assert default["model"]["backbone"] == "resnet_small"
  assert chosen["model"]["aspp_channels"] == 256
  for group in default.keys() - {"model"}:
    assert chosen[group] == default[group]


def test_configs_share_no_state():
  first = common.get_config()
  first.data.crop_size = 64
  assert common.get_config().data.crop_size == 512


def test_variants_may_come_in_any_order_and_with_spaces():
  expected = {"model": "deeplabv3plus", "backbone": "resnet101"}
  assert common.parse_variants("backbone=resnet101, model=deeplabv3plus,") == expected
  assert common.parse_variants("") == {}


@pytest.mark.parametrize(
  ("variants", "message"),
  [
    (
      "modle=deeplabv3plus",
      "unknown variant key 'modle' in 'modle=deeplabv3plus'; nearest valid: 'model';"
      " valid: model, backbone",
    ),
    (
      "backbone=resnet5",
      "unknown value 'resnet5' of variant 'backbone'; nearest valid: 'resnet50';"
      " valid: resnet50, resnet101, resnet_small",
    ),
    (
      "resnet101",
      "variant 'resnet101' is not of the form key=value; nearest valid: 'backbone=resnet101'",
    ),
    (
      "backbone",
      "variant 'backbone' is not of the form key=value; nearest valid: 'backbone';"
      " valid: model, backbone",
    ),
    (
      "backbone=resnet50,backbone=resnet101",
      "variant 'backbone' is given twice: 'resnet50' and 'resnet101'; give it once",
    ),
  ],
)
def test_wrong_variant_names_the_nearest_valid_one(variants, message):
  with pytest.raises(ValueError) as raised:
    build("coco_stuff_lt", variants)
  assert str(raised.value) == message
