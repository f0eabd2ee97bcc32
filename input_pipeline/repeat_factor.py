"""Repeat factors: how often repeat factor sampling shows each image in an epoch, on average.

r_c = max(1, sqrt(t / f_c)) for a class of frequency f_c; an image takes the max, mean or sum over
its classes, and 1 where it has none. Everything comes from the stored pixel counts; no image is
decoded. The order of the stream is `sampling.RepeatFactorShuffle`.

Source: A. Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (CVPR 2019),
appendix B; pixel level, mean and sum are options of the release of "Frequency-based Matcher for
Long-tailed Semantic Segmentation" (IEEE TMM 2024).
"""

import numpy as np

from input_pipeline import class_stats

LEVELS = ("image", "pixel")
REDUCTIONS = ("max", "mean", "sum")


def _checked(field: str, value: str, choices: tuple[str, ...]) -> str:
  if value not in choices:
    raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(choices)}.")
  return value


def _level_counts(stats: class_stats.ClassStats, level: str) -> np.ndarray:
  if _checked("level", level, LEVELS) == "image":
    return stats.images_with_class
  return stats.pixel_share_sum


def class_frequency(stats: class_stats.ClassStats, level: str = "image") -> np.ndarray:
  """Frequency of every class.

  Args:
    stats: class statistics of the training split.
    level: "image": share of the images that show the class; "pixel": mean over the images of the
      share of the image's pixels that the class covers.

  Returns:
    f, in [0, 1], float64 [C].

  Raises:
    ValueError: if there is no such level.
  """
  return _level_counts(stats, level) / stats.num_images


def default_threshold(stats: class_stats.ClassStats, level: str = "image") -> float:
  """The frequency t below which classes are repeated.

  Args:
    stats: class statistics of the training split.
    level: "image" or "pixel", as in `class_frequency`.

  Returns:
    For image level the published value, where the statistics are the table that it goes with; else
    a / N with a the count at the border of the rare and the common group
    (`class_stats.frequency_threshold`).

  Raises:
    ValueError: if there is no such level.
  """
  counts = _level_counts(stats, level)
  if level == "image" and stats.repeat_threshold is not None:
    return stats.repeat_threshold
  return class_stats.frequency_threshold(counts, stats.num_images)


def image_repeat_factors(
  pixel_counts: class_stats.PixelCounts, class_factors: np.ndarray, reduce: str = "max"
) -> np.ndarray:
  """Repeat factor of every image, from those of its classes.

  Args:
    pixel_counts: pixel counts of N images.
    class_factors: r_c of `class_stats.class_repeat_factors`, float [C].
    reduce: "max", "mean" or "sum" over the classes of the image.

  Returns:
    r, float64 [N]; 1 for an image without any class.

  Raises:
    ValueError: if there is no such reduction, or an image shows a class beyond C.
  """
  _checked("reduce", reduce, REDUCTIONS)
  class_ids, offsets = pixel_counts.class_ids, pixel_counts.row_offsets
  if len(class_ids) and class_ids.max() >= len(class_factors):
    raise ValueError(
      f"The pixel counts list class {class_ids.max()}, but there are {len(class_factors)} classes; "
      "the statistics belong to another data set. Prepare the data again."
    )
  num_classes = np.diff(offsets)  # [N]
  shown = num_classes > 0
  factors = np.ones(len(pixel_counts))  # [N]
  if not shown.any():
    return factors
  values = np.asarray(class_factors, np.float64)[class_ids]  # [NNZ]
  operation = np.maximum if reduce == "max" else np.add
  factors[shown] = operation.reduceat(values, offsets[:-1][shown])
  if reduce == "mean":
    factors[shown] /= num_classes[shown]
    # A mean of ones may round to just below.
    np.maximum(factors, 1.0, out=factors)
  return factors
