"""The defaults of config fields stand in configs/common.py, and nowhere else with another value."""

import ast
import dataclasses
import pathlib

import pytest

from configs import common, models
from configs.fields import field_names
from input_pipeline import color_jitter, copy_paste, datasets, pipeline, transforms
from ltss_jax import architectures, optimizer
from ltss_jax.inference import test_time_augmentation
from ltss_jax.losses import class_losses, criterion_types, matching
from ltss_jax.models import (
  backbones,
  dino,
  mask2former,
  pixel_decoder,
  transformer_decoder,
)

REPOSITORY = pathlib.Path(__file__).parents[1]
PACKAGES = ("ltss_jax", "input_pipeline", "kernels")

# What build.py, or a model that it builds, fills from the config: these leave nothing to a default.
FILLED = (
  backbones.BackboneConfig,
  *class_losses.CLASS_LOSSES.values(),
  color_jitter.ColorJitter,
  copy_paste.CopyPaste,
  criterion_types.CriterionConfig,
  *(spec.model_config for spec in architectures.SPECS.values()),
  *(spec.loss_config for spec in architectures.SPECS.values()),
  optimizer.OptimizerConfig,
  pipeline.TrainPipelineConfig,
  pixel_decoder.PixelDecoderConfig,
  transformer_decoder.TransformerDecoderConfig,
  test_time_augmentation.AugmentationOptions,
  transforms.Augmentation,
  transforms.DecodeScaledCrop,
  transforms.RandomCrop,
  transforms.ResizeShortestEdge,
)
# Names that a field of the config has in the library -> that of the field.
OTHER_NAMES = {
  "beta": "class_balanced_beta",
  "tau": "logit_adjustment_tau",
  "norm": "backbone_norm",
  "scale": "query_scale",
  "feed_forward_width": "encoder_width",
  "mode": "copy_paste",
  "classes": "copy_paste_classes",
  "min_scale": "copy_paste_min_scale",
  "max_scale": "copy_paste_max_scale",
  "exact": "exact_pixels",
}
# Defaults under the name of a field that they are not the default of.
OTHER_THINGS = {
  "input_pipeline/class_tables.py ClassTable.ignore_label": "of published data sets",
  "ltss_jax/api.py load.step": "the latest checkpoint, a name for 0",
  "ltss_jax/checkpoint/run.py __init__.keep": "of checkpoints that are only read",
  "ltss_jax/models/layers.py __init__.norm": "of the decoders, whose norms are always trained",
  "ltss_jax/models/resnet.py __init__.norm": "of a layer",
  "ltss_jax/models/pixel_decoder.py PixelDecoderConfig.num_points": "samples of the attention",
  "ltss_jax/models/swin.py __init__.drop_path": "the published rate, which -1 stands for",
  "ltss_jax/models/vit.py __init__.drop_path": "the published rate, which -1 stands for",
}


def config_values():
  """Last part of a field's name -> the defaults of all fields that end in it."""
  config, values = common.get_config(), {}
  for field in field_names(config):
    values.setdefault(field.rpartition(".")[2], []).append(config[field])
  return values


VALUES = config_values()


def defaults(source):
  """(owner.name, expression) of every default of a parameter or a dataclass field."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef):
      positional = node.args.posonlyargs + node.args.args
      pairs = list(zip(reversed(positional), reversed(node.args.defaults), strict=False))
      pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
      yield from ((f"{node.name}.{argument.arg}", value) for argument, value in pairs if value)
    if isinstance(node, ast.ClassDef):
      for line in node.body:
        if isinstance(line, ast.AnnAssign) and line.value:
          yield f"{node.name}.{ast.unparse(line.target)}", line.value


def contradictions(source, path=""):
  """Defaults under the name of a config field that are not the field's; None is no default."""
  found = []
  for name, expression in defaults(source):
    field = name.rpartition(".")[2]
    values = VALUES.get(OTHER_NAMES.get(field, field))
    try:
      value = ast.literal_eval(expression)
    except ValueError:
      value = ast.unparse(expression)
    if values and value is not None and value not in values:
      found.append(f"{path} {name}")
  return found


@pytest.mark.parametrize("cls", FILLED)
def test_what_is_filled_from_the_config_has_no_defaults_of_its_own(cls):
  own = {
    field.name
    for field in dataclasses.fields(cls)
    if OTHER_NAMES.get(field.name, field.name) in VALUES
    and field.default not in (dataclasses.MISSING, None)
  }
  assert own == ({"num_points"} if cls is pixel_decoder.PixelDecoderConfig else set())


def test_no_default_of_the_library_contradicts_the_configs():
  found = []
  for package in PACKAGES:
    for path in sorted((REPOSITORY / package).rglob("*.py")):
      found += contradictions(path.read_text(), path.relative_to(REPOSITORY).as_posix())
  assert set(found) <= set(OTHER_THINGS), "take the default away, or make it the config's"
  assert set(OTHER_THINGS) <= set(found), "listed, but not there"


def test_a_contradiction_is_found():
  source = """
class A:
  prefetch: int = 2
  exact_pixels: bool = False
  other: int = 3
def f(a, num_workers=0, *, tau=None, beta=0.5, flip=False): pass
"""
  assert contradictions(source) == [" A.prefetch", " f.num_workers", " f.beta"]


def test_the_choices_are_those_that_the_library_has():
  choices = common.CHOICES
  assert choices["model.name"] == tuple(architectures.SPECS)
  assert choices["loss.class_loss"] == tuple(class_losses.CLASS_LOSSES)
  heads = {name: loss.class_head for name, loss in class_losses.CLASS_LOSSES.items()}
  assert {name: head for name, head in heads.items() if head != "softmax"} == models._CLASS_HEADS
  assert choices["loss.matcher"] == tuple(matching.BACKENDS)
  assert choices["model.class_head"] == tuple(mask2former.CLASS_HEADS)
  assert choices["model.backbone_norm"] == backbones.NORMS
  assert set(choices["model.backbone"]) == {*backbones.NAMES, *dino.CONFIGS}
  assert set(choices["data.name"]) == set(datasets.SPECS)
  assert choices["data.copy_paste"] == ("none", *copy_paste.MODES)
