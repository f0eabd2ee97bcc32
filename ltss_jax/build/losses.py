"""What the losses of a config take from the statistics of the training data."""

import dataclasses

import ml_collections
import numpy as np
from absl import logging

from input_pipeline import class_stats, repeat_factor
from ltss_jax import architectures
from ltss_jax.build.fields import fields_of
from ltss_jax.losses import class_losses
from ltss_jax.losses.class_loss_type import ClassLoss


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


def _prior_counts(
  spec: architectures.ArchitectureSpec, stats: class_stats.ClassStats
) -> np.ndarray:
  """The amounts whose shares are the priors of the classes [C]."""
  return stats.images_with_class if spec.prior == "images" else stats.pixel_share_sum


def class_loss(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> ClassLoss:
  """The class loss that `config.loss` names.

  Args:
    config: resolved config.
    stats: statistics of the training data, for a loss with a field for them.

  Raises:
    ValueError: it needs statistics, and there are none.
  """
  spec, name = architectures.SPECS[config.model.name], config.loss.class_loss
  cls, given = class_losses.CLASS_LOSSES[name], dict(config.loss)
  if stats is not None:
    given |= {"train_images": stats.images_with_class, "prior_counts": _prior_counts(spec, stats)}
  values = fields_of(cls, given)
  if len(values) < len(dataclasses.fields(cls)):
    raise ValueError(f"class_loss {name!r} needs the class counts of the training data.")
  return cls(**values)


def inference_log_prior(
  config: ml_collections.ConfigDict,
  spec: architectures.ArchitectureSpec,
  stats: class_stats.ClassStats | None,
) -> np.ndarray | None:
  """Values that inference takes from the class logits [C], None for nothing."""
  multiple = config.eval.logit_adjustment
  if not multiple:
    return None
  stats = _required(stats, "eval.logit_adjustment", multiple)
  return multiple * class_losses.log_prior(_prior_counts(spec, stats))


def queries_per_class(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> tuple[int, ...] | None:
  """Queries of a target by class [C] for the frequency-based matcher, None without it."""
  loss = config.loss
  if not loss.frequency_matcher:
    return None
  stats = _required(stats, "loss.frequency_matcher", True)
  threshold = loss.query_threshold or stats.query_threshold
  if threshold is None:
    threshold = class_stats.frequency_threshold(stats.images_with_class, stats.num_images)
  frequency = repeat_factor.class_frequency(stats)
  numbers = class_stats.queries_per_class(frequency, threshold, loss.query_scale)
  _log_queries(numbers, stats, threshold, loss.query_scale)
  return tuple(numbers.tolist())


def _log_queries(
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
