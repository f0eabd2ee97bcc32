"""Models, architectures and objectives of a config."""

import dataclasses
from typing import Any

import ml_collections
from jax.sharding import Mesh

from input_pipeline import class_stats
from ltss_jax import architectures
from ltss_jax.build import losses
from ltss_jax.build.fields import fields_of
from ltss_jax.models import backbones, functional


def model_config(config: ml_collections.ConfigDict, num_classes: int) -> Any:
  """Shape of the model that `config.model` describes, as its architecture has it.

  Args:
    config: resolved config.
    num_classes: C.
  """
  model = config.model
  names = {"name": model.backbone, "norm": model.backbone_norm, "frozen": model.freeze_backbone}
  backbone = backbones.BackboneConfig(**fields_of(backbones.BackboneConfig, model) | names)
  given = {"num_classes": num_classes, "crop_size": config.data.crop_size, "backbone": backbone}
  cls = architectures.SPECS[model.name].model_config
  return cls(**fields_of(cls, {**model, **given}))


def model_functions(config: ml_collections.ConfigDict, num_classes: int) -> functional.Functional:
  """`init` and `apply` of the model that `config.model` describes, for `num_classes` classes."""
  return architectures.SPECS[config.model.name].functions(model_config(config, num_classes))


def build_architecture(
  config: ml_collections.ConfigDict,
  *,
  num_classes: int,
  train_stats: class_stats.ClassStats | None = None,
) -> architectures.Architecture:
  """The model and its inference, as `config.model` and `config.eval` describe them.

  Args:
    config: resolved config.
    num_classes: C.
    train_stats: statistics of the training data, for a logit adjustment.

  Raises:
    ValueError: a logit adjustment needs statistics, and there are none.
  """
  spec = architectures.SPECS[config.model.name]
  shape, dtype = model_config(config, num_classes), config.eval.dtype
  shape = dataclasses.replace(
    shape, dtype=dtype, backbone=dataclasses.replace(shape.backbone, dtype=dtype)
  )
  return spec.architecture(shape, losses.inference_log_prior(config, spec, train_stats))


def build_objective(
  config: ml_collections.ConfigDict,
  *,
  num_classes: int,
  ignore_label: int,
  mesh: Mesh,
  train_stats: class_stats.ClassStats | None = None,
) -> architectures.Objective:
  """The model and its loss, as `config.model` and `config.loss` describe them.

  Args:
    config: resolved config.
    num_classes: C.
    ignore_label: label of the pixels that belong to no class.
    mesh: devices over which training batches are split.
    train_stats: statistics of the training data, for the methods that need them.

  Raises:
    ValueError: a method needs statistics, and there are none.
  """
  spec = architectures.SPECS[config.model.name]
  given = {
    "ignore_label": ignore_label,
    "class_loss": losses.class_loss(config, train_stats),
    "queries_per_class": losses.queries_per_class(config, train_stats),
    "steps": config.train.steps,
  }
  cls = spec.loss_config
  settings = cls(**fields_of(cls, {**config.model, **config.loss, **given}))
  objective = spec.objective(model_config(config, num_classes), settings, mesh)
  frozen = ("backbone",) if config.model.freeze_backbone else ()
  return dataclasses.replace(objective, frozen=frozen)
