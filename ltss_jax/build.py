"""From the config to what runs: the only place where config fields meet models and pipelines."""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh

from input_pipeline import class_stats, copy_paste, pipeline, repeat_factor
from ltss_jax import architectures, evaluate, optimizer, views
from ltss_jax.dataset import Dataset
from ltss_jax.losses import class_losses, mask_criterion
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
    "inference_log_prior": _inference_log_prior(config, train_stats),
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
      query_numbers=_query_numbers(config, train_stats),
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


def _required(stats: class_stats.ClassStats | None, field: str, value: object):
  """The statistics.

  Raises:
    ValueError: there are none; `field` with its value is what needs them.
  """
  if stats is None:
    raise ValueError(
      f"config.{field}={value!r} needs the class statistics of the training data, which are not "
      "there; prepare the data set, or set the field to its default"
    )
  return stats


def _prior_counts(config: ml_collections.ConfigDict, stats: class_stats.ClassStats) -> np.ndarray:
  """What the classes' priors are the shares of [C]: pixels for a pixel loss, images for queries."""
  by_pixel = config.model.name == "deeplabv3plus"
  return stats.pixel_share_sum if by_pixel else stats.images_with_class


def class_loss(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> class_losses.ClassLoss:
  """The class loss that `config.loss` names.

  Args:
    config: resolved.
    stats: of the training data; only a loss that needs counts needs them.

  Raises:
    ValueError: it needs counts, and there are none.
  """
  loss, counts = config.loss, None
  if stats is not None:
    balanced = loss.class_loss == "class_balanced"
    counts = stats.images_with_class if balanced else _prior_counts(config, stats)
  return class_losses.make_class_loss(
    loss.class_loss,
    counts=counts,
    tau=loss.logit_adjustment_tau,
    beta=loss.class_balanced_beta,
    focal_gamma=loss.focal_gamma,
    seesaw_p=loss.seesaw_p,
    seesaw_q=loss.seesaw_q,
  )


def _inference_log_prior(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> np.ndarray | None:
  """What inference takes from the class logits [C], None for nothing."""
  multiple = config.eval.logit_adjustment
  if not multiple:
    return None
  stats = _required(stats, "eval.logit_adjustment", multiple)
  return multiple * class_losses.log_prior(_prior_counts(config, stats))


def _query_numbers(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> tuple[int, ...] | None:
  """Queries of a target by class [C] for the frequency-based matcher, None without it."""
  loss = config.loss
  if not loss.frequency_matcher:
    return None
  stats = _required(stats, "loss.frequency_matcher", True)
  published = repeat_factor.PUBLISHED_QUERY_THRESHOLDS.get(stats.official_name)
  threshold = loss.query_threshold or published
  if threshold is None:
    threshold = class_stats.frequency_threshold(stats.images_with_class, stats.num_images)
  frequency = repeat_factor.class_frequency(stats)
  numbers = class_stats.query_numbers(frequency, threshold, loss.query_scale)
  _log_query_numbers(numbers, stats, threshold, loss.query_scale)
  return tuple(numbers.tolist())


def _log_query_numbers(
  numbers: np.ndarray, stats: class_stats.ClassStats, threshold: float, scale: float
) -> None:
  """Logs how many classes have how many queries, and the classes with the most."""
  values, sizes = np.unique(numbers, return_counts=True)
  most = np.lexsort((stats.images_with_class, -numbers))[:10]
  logging.info(
    "Frequency-based matcher (s = %g, t = %.4g), queries of a target:\n%s\nmost: %s",
    scale,
    threshold,
    "\n".join(f"  {v:3d}: {n} classes" for v, n in zip(values, sizes, strict=True)),
    ", ".join(f"class {c}: {numbers[c]} ({stats.images_with_class[c]} images)" for c in most),
  )


def optimizer_config(config: ml_collections.ConfigDict) -> optimizer.OptimizerConfig:
  """The recipe of `config.optimizer`, over `config.train.steps` updates."""
  return optimizer.OptimizerConfig(steps=config.train.steps, **config.optimizer.to_dict())


def _repeat_factors(config: ml_collections.ConfigDict, dataset: Dataset) -> np.ndarray | None:
  """Repeat factor of every training image [N]; None where neither sampler nor Copy-Paste asks."""
  data = config.data
  if data.sampler != "repeat_factor" and not data.copy_paste_repeat_factor:
    return None
  stats, level = dataset.train_stats, data.repeat_level
  threshold = data.repeat_threshold or repeat_factor.default_threshold(stats, level)
  factors = repeat_factor.repeat_factors(
    dataset.train_counts, stats, threshold=threshold, level=level, reduce=data.repeat_reduce
  )
  logging.info(
    "Repeat factors (%s level, %s, t = %.4g): mean %.3f, largest %.2f, %d of %d images above 1",
    level,
    data.repeat_reduce,
    threshold,
    factors.mean(),
    factors.max(),
    np.sum(factors > 1),
    len(factors),
  )
  return factors


def _copy_paste(config: ml_collections.ConfigDict, dataset: Dataset) -> copy_paste.CopyPaste | None:
  data, metadata = config.data, dataset.metadata
  if data.copy_paste == "none":
    return None
  unknown = [train_id for train_id in data.copy_paste_classes if train_id >= metadata.num_classes]
  if unknown:
    raise ValueError(
      f"config.data.copy_paste_classes holds {unknown[0]}, but {metadata.name} has the train ids 0"
      f" to {metadata.num_classes - 1}."
    )
  rare = np.flatnonzero(dataset.image_groups == 0)
  return copy_paste.CopyPaste(
    ignore_label=metadata.ignore_label,
    mode=data.copy_paste,
    rare_classes=tuple(rare.tolist()),
    classes=tuple(data.copy_paste_classes),
    flip=data.copy_paste_flip,
    flip_pairs=metadata.flip_pairs,
    min_scale=data.copy_paste_min_scale,
    max_scale=data.copy_paste_max_scale,
  )


def train_pipeline_config(
  config: ml_collections.ConfigDict, dataset: Dataset, max_targets: int
) -> pipeline.TrainPipelineConfig:
  """The sampling, augmentation and batching of `config.data`.

  Args:
    config: resolved.
    dataset: that it names.
    max_targets: as the architecture has it.

  Raises:
    ValueError: `config.data.copy_paste_classes` names a class that the data set lacks.
  """
  data = config.data
  factors = _repeat_factors(config, dataset)
  return pipeline.TrainPipelineConfig(
    batch_size=config.batch_size,
    seed=config.seed,
    crop_size=data.crop_size,
    base_size=data.base_size,
    min_factor=data.min_factor,
    max_factor=data.max_factor,
    max_size=data.max_size,
    max_category_share=data.max_category_share,
    color_jitter=data.color_jitter,
    flip=data.flip,
    ignore_label=dataset.metadata.ignore_label,
    flip_pairs=dataset.metadata.flip_pairs,
    num_workers=data.num_workers,
    prefetch=data.prefetch,
    max_targets=max_targets,
    class_counts=tuple(int(n) for n in dataset.train_stats.images_with_class),
    exact_pixels=data.exact_pixels,
    repeat_factors=factors if data.sampler == "repeat_factor" else None,
    copy_paste=_copy_paste(config, dataset),
    source_weights=factors if data.copy_paste_repeat_factor else None,
  )


def build_predictor(
  config: ml_collections.ConfigDict,
  architecture: architectures.Architecture,
  mesh: Mesh,
  flip_pairs: Sequence[tuple[int, int]],
) -> evaluate.Predictor:
  """The predictor of the views and windows that `config.eval` asks for.

  Args:
    config: of the run; its batches are to be of `config.eval.min_size`.
    architecture: the model.
    mesh: of this process's own devices.
    flip_pairs: classes that swap in a mirrored image.
  """
  options = config.eval
  if options.window:
    stride = options.window_stride or -(-2 * options.window // 3)
    architecture = architectures.over_windows(architecture, options.window, stride)
  view_options = views.ViewOptions(
    scales=tuple(options.scales),
    max_size=options.scales_max_size,
    flip=options.flip,
    flip_pairs=tuple(flip_pairs),
    shape_multiple=options.shape_multiple,
  )
  return evaluate.Predictor(architecture, mesh, view_options)


def checkpoint_directory(workdir: epath.PathLike) -> epath.Path:
  """Where the checkpoints of a run lie."""
  return epath.Path(workdir) / "checkpoints"
