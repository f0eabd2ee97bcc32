"""What the losses of a config take from the statistics of the training data."""

import ml_collections
import numpy as np
from absl import logging

from input_pipeline import class_stats, repeat_factor
from ltss_jax.losses import class_losses


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


def inference_log_prior(
  config: ml_collections.ConfigDict, stats: class_stats.ClassStats | None
) -> np.ndarray | None:
  """What inference takes from the class logits [C], None for nothing."""
  multiple = config.eval.logit_adjustment
  if not multiple:
    return None
  stats = _required(stats, "eval.logit_adjustment", multiple)
  return multiple * class_losses.log_prior(_prior_counts(config, stats))


def query_numbers(
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
  numbers = class_stats.queries_per_class(frequency, threshold, loss.query_scale)
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
