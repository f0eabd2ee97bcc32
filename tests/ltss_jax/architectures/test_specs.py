"""What the kinds of model state of themselves fits together."""

import dataclasses

import jax
import pytest

from configs import common
from ltss_jax import build
from ltss_jax.architectures import SPECS
from ltss_jax.weights import names, trees, whole_models
from tests import recipes


def config_of(model):
  backbone = {"backbone": "resnet_small"}  # or what the model has in its place
  return common.apply_variants(common.get_config(), f"model={model}", defaults=backbone)


def shapes(model, num_classes):
  """Path -> shape of the parameters."""
  init = build.model_functions(config_of(model), num_classes).init
  return trees.flatten(jax.eval_shape(init, jax.random.key(0))[0])


def test_class_layers_tell_checkpoints_apart():
  official = {m: names.official_name(m, f"{s.class_layers[0]}/bias") for m, s in SPECS.items()}
  assert len(set(official.values())) == len(SPECS), official


@pytest.mark.parametrize("model", SPECS)
def test_checkpoints_of_the_model_are_known_as_whole_models(model):
  paths = shapes(model, 3)
  official = [names.official_name(model, path) for path in paths]
  assert whole_models.recognise(official) is not None
  backbone = [
    name for path, name in zip(paths, official, strict=True) if path.startswith("backbone")
  ]
  assert backbone and whole_models.recognise(backbone) is None


@pytest.mark.parametrize("model", SPECS)
def test_class_layers_are_those_whose_shape_follows_the_classes(model):
  three, five = shapes(model, 3), shapes(model, 5)
  follow = {path for path in three if three[path].shape != five[path].shape}
  wanted = tuple(f"{path}/" for path in SPECS[model].class_layers)
  assert follow and all(path.startswith(wanted) for path in follow)


@pytest.mark.parametrize("model", SPECS)
def test_the_dataclasses_have_the_fields_that_build_fills(model):
  fields = {field.name for field in dataclasses.fields(SPECS[model].model_config)}
  assert {"num_classes", "backbone", "dtype"} <= fields
  fields = {field.name for field in dataclasses.fields(SPECS[model].loss_config)}
  assert {"class_loss", "ignore_label"} <= fields


def test_weight_decay_of_deeplabv3plus_leaves_out_the_norms_alone():
  shape = build.model.model_config(config_of("deeplabv3plus"), 3)
  decays = SPECS["deeplabv3plus"].objective(shape, recipes.pixel_loss()).decays
  paths = shapes("deeplabv3plus", 3)
  assert {path for path in paths if not decays(path)} == {
    path for path in paths if "/norm/" in path
  }
