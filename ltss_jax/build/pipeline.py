"""Sampling, augmentation and batching of a config."""

import ml_collections
import numpy as np
from absl import logging

from input_pipeline import class_stats, copy_paste, pipeline, repeat_factor, transforms
from ltss_jax.build.fields import fields_of
from ltss_jax.dataset import Dataset


def _repeat_factors(config: ml_collections.ConfigDict, dataset: Dataset) -> np.ndarray | None:
  """Repeat factor of every training image [N]; None where neither sampler nor Copy-Paste asks."""
  data = config.data
  if data.sampler != "repeat_factor" and not data.copy_paste_repeat_factor:
    return None
  stats, level = dataset.train_stats, data.repeat_level
  threshold = data.repeat_threshold or repeat_factor.default_threshold(stats, level)
  frequency = repeat_factor.class_frequency(stats, level)
  factors = repeat_factor.image_repeat_factors(
    dataset.train_counts,
    class_stats.class_repeat_factors(frequency, threshold),
    data.repeat_reduce,
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
    **fields_of(copy_paste.CopyPaste, data, "copy_paste_"),
    mode=data.copy_paste,
    rare_classes=tuple(rare.tolist()),
    ignore_label=metadata.ignore_label,
    flip_pairs=metadata.flip_pairs,
  )


def train_pipeline_config(
  config: ml_collections.ConfigDict, dataset: Dataset, max_targets: int
) -> pipeline.TrainPipelineConfig:
  """The sampling, augmentation and batching of `config.data`.

  Args:
    config: resolved config.
    dataset: prepared data set of `config.data.name`.
    max_targets: T of the architecture.

  Raises:
    ValueError: `config.data.copy_paste_classes` names a class that the data set lacks.
  """
  data, metadata = config.data, dataset.metadata
  factors = _repeat_factors(config, dataset)
  augmentation = transforms.Augmentation(
    **fields_of(transforms.Augmentation, data)
    | {"ignore_label": metadata.ignore_label, "flip_pairs": metadata.flip_pairs}
  )
  fields = fields_of(pipeline.TrainPipelineConfig, config)
  fields |= fields_of(pipeline.TrainPipelineConfig, data)
  fields |= {
    "augmentation": augmentation,
    "max_targets": max_targets,
    "class_counts": tuple(int(n) for n in dataset.train_stats.images_with_class),
    "repeat_factors": factors if data.sampler == "repeat_factor" else None,
    "copy_paste": _copy_paste(config, dataset),
    "source_weights": factors if data.copy_paste_repeat_factor else None,
  }
  return pipeline.TrainPipelineConfig(**fields)
