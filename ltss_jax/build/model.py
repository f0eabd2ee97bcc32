"""Models and architectures of a config."""

import dataclasses

import ml_collections
from jax.sharding import Mesh

from input_pipeline import class_stats
from ltss_jax import architectures
from ltss_jax.build.losses import class_loss, inference_log_prior, query_numbers
from ltss_jax.losses import mask_criterion
from ltss_jax.models import backbones, deeplabv3plus, functional, mask2former

# Cells of res5 that a training crop covers are its pixels divided by this.
_RES5_STRIDE = 16


def _deeplabv3plus_config(
  config: ml_collections.ConfigDict, num_classes: int
) -> deeplabv3plus.DeepLabV3PlusConfig:
  model = config.model
  windowed = model.image_pooling == "window"
  return deeplabv3plus.DeepLabV3PlusConfig(
    num_classes=num_classes,
    backbone=model.backbone,
    backbone_norm=model.backbone_norm,
    remat=model.remat,
    dtype=model.dtype,
    aspp_channels=model.aspp_channels,
    aspp_dilations=tuple(model.aspp_dilations),
    aspp_dropout=model.aspp_dropout,
    low_level_channels=model.low_level_channels,
    decoder_channels=model.decoder_channels,
    pooling_window=config.data.crop_size // _RES5_STRIDE if windowed else 0,
  )


def _mask2former_config(
  config: ml_collections.ConfigDict, num_classes: int
) -> mask2former.Mask2FormerConfig:
  model = config.model
  chosen = model.deformable_attention
  return mask2former.Mask2FormerConfig(
    num_classes=num_classes,
    backbone=backbones.BackboneConfig(
      name=model.backbone,
      norm=model.backbone_norm,
      dtype=model.dtype,
      drop_path=model.drop_path,
      remat=model.remat,
    ),
    channels=model.channels,
    num_queries=model.num_queries,
    encoder_layers=model.encoder_layers,
    decoder_layers=model.decoder_layers,
    num_heads=model.num_heads,
    encoder_width=model.encoder_width,
    decoder_width=model.decoder_width,
    class_head=model.class_head,
    dtype=model.dtype,
    remat=model.remat,
    deformable_attention=None if chosen == "auto" else chosen,
    pixel_head=model.pixel_head,
  )


def model_functions(config: ml_collections.ConfigDict, num_classes: int) -> functional.Functional:
  """`init` and `apply` of the model that `config.model` describes, for `num_classes` classes."""
  if config.model.name == "mask2former":
    return mask2former.functions(_mask2former_config(config, num_classes))
  return deeplabv3plus.functions(_deeplabv3plus_config(config, num_classes))


def build_architecture(
  config: ml_collections.ConfigDict,
  *,
  num_classes: int,
  ignore_label: int,
  mesh: Mesh,
  train_stats: class_stats.ClassStats | None = None,
  training: bool = True,
) -> architectures.Architecture:
  """The model, loss and inference that `config.model` and `config.loss` ask for.

  Args:
    config: resolved.
    num_classes: C.
    ignore_label: label of the pixels that belong to no class.
    mesh: over which training batches are split.
    train_stats: how often the classes occur in the training data, for the methods that need it.
    training: False where there is inference alone: then the loss, which must not be called, needs
      no statistics.

  Raises:
    ValueError: a method needs statistics, and there are none.
  """
  if not training:
    architecture = build_architecture(
      _plain_loss(config),
      num_classes=num_classes,
      ignore_label=ignore_label,
      mesh=mesh,
      train_stats=train_stats,
    )
    return dataclasses.replace(architecture, loss=_no_loss)
  loss = config.loss
  shared = {
    "ignore_label": ignore_label,
    "inference_dtype": config.eval.dtype,
    "inference_log_prior": inference_log_prior(config, train_stats),
  }
  if config.model.name == "deeplabv3plus":
    return architectures.deeplabv3plus_architecture(
      _deeplabv3plus_config(config, num_classes),
      hard_pixel_fraction=loss.hard_pixel_fraction,
      class_loss=class_loss(config, train_stats),
      **shared,
    )
  return architectures.mask2former_architecture(
    _mask2former_config(config, num_classes),
    mask_criterion.CriterionConfig(
      num_points=loss.num_points,
      oversample_ratio=loss.oversample_ratio,
      importance_sample_ratio=loss.importance_sample_ratio,
      class_weight=loss.class_weight,
      mask_weight=loss.mask_weight,
      dice_weight=loss.dice_weight,
      class_loss=class_loss(config, train_stats),
      no_object_weight=loss.no_object_weight,
      query_numbers=query_numbers(config, train_stats),
      matcher=loss.matcher,
      ignored_pixels=loss.ignored_pixels,
      ignore_label=ignore_label,
    ),
    max_targets=config.model.max_targets,
    mesh=mesh,
    pixel_head_weight=loss.pixel_head_weight,
    **shared,
  )


def _plain_loss(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with a loss that needs no statistics, and the same state."""
  config = config.copy_and_resolve_references()
  config.loss.frequency_matcher = False
  if config.loss.class_loss != "seesaw":  # whose counts are part of the state
    config.loss.class_loss = "cross_entropy"
  return config


def _no_loss(*_) -> None:
  raise ValueError("this architecture was built with training=False; it has no loss")
