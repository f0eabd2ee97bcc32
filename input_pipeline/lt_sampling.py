"""Long-tailed subsets: a seeded greedy sampler that raises the Gini coefficient.

With the class counts x sorted ascending and w_c = C + 1 - rank of class c (the rarest class weighs
C, the most frequent 1), the Gini coefficient of `class_stats.gini` is

  G = (C + 1 - 2 m) / C,  m = sum_c(w_c x_c) / sum_c(x_c),

so that long-tailedness is a low mean weight m. Taking image i away, whose classes count a_ic,
changes m by at most -s_i / (sum(x) - sum_c(a_ic)), s_i = sum_c(a_ic (w_c - m)): the weights after
the removal are those of the new order of the classes, and no other order gives a lower mean. So
where s_i >= 0 the coefficient never falls, and the same holds for several images at once. The
sampler takes away the images with the largest s_i, those whose classes are rarer than the mean,
and then weighs the classes anew.

Such a subset resembles the published long-tailed data sets in size and Gini coefficient; it is not
their list of images.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from input_pipeline import class_stats

LEVELS = ("image", "pixel", "both")
# Classes are weighed anew after this share of the removals: often enough that more rounds raise
# the reached Gini coefficient by less than 0.001.
_ROUNDS = 400


def class_matrices(
  pixel_counts: class_stats.PixelCounts, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Spreads the stored counts of a split out to what `greedy_subset` takes.

  Args:
    pixel_counts: counts of N images.
    num_classes: number of classes C.

  Returns:
    (presence bool [N, C], pixel_share float32 [N, C]), the share of H * W that a class covers.
  """
  rows = np.repeat(np.arange(len(pixel_counts)), np.diff(pixel_counts.row_offsets))  # [NNZ]
  area = pixel_counts.height.astype(np.int64) * pixel_counts.width  # [N]
  presence = np.zeros((len(pixel_counts), num_classes), bool)
  presence[rows, pixel_counts.class_ids] = True
  pixel_share = np.zeros(presence.shape, np.float32)
  pixel_share[rows, pixel_counts.class_ids] = pixel_counts.pixels / area[rows]
  return presence, pixel_share


@dataclasses.dataclass(eq=False)
class _Remaining:
  """The images that are left, and what they add up to.

  Attributes:
    offsets: image i has the entries offsets[i]:offsets[i + 1], int64 [N + 1].
    rows: image of every entry, int64 [NNZ].
    class_ids: class of every entry, int64 [NNZ].
    values: counted amount of every entry, one float64 [NNZ] per level.
    sizes: sum of the values of every image, one float64 [N] per level.
    counts: number of images left per class, int64 [C].
    sums: sum of the values left per class, one float64 [C] per level.
    removable: False where the image is gone or holds the last occurrence of a class, bool [N].
    num_images: number of images left.
  """

  offsets: np.ndarray
  rows: np.ndarray
  class_ids: np.ndarray
  values: list[np.ndarray]
  sizes: list[np.ndarray]
  counts: np.ndarray
  sums: list[np.ndarray]
  removable: np.ndarray
  num_images: int

  @classmethod
  def of_all(cls, presence: np.ndarray, matrices: list[np.ndarray]) -> "_Remaining":
    """Starts with all the images; `matrices` [N, C] hold what is counted at each level."""
    num_images, num_classes = presence.shape
    rows, class_ids = np.nonzero(presence)
    values = [matrix[rows, class_ids].astype(np.float64) for matrix in matrices]
    return cls(
      offsets=np.searchsorted(rows, np.arange(num_images + 1)),
      rows=rows,
      class_ids=class_ids,
      values=values,
      sizes=[np.bincount(rows, weights=v, minlength=num_images) for v in values],
      counts=np.bincount(class_ids, minlength=num_classes),
      sums=[np.bincount(class_ids, weights=v, minlength=num_classes) for v in values],
      removable=np.ones(num_images, bool),
      num_images=num_images,
    )

  def gini(self) -> float:
    """The Gini coefficient; the lower one where there are two levels."""
    return min(class_stats.gini(sums) for sums in self.sums)

  def gains(self) -> tuple[np.ndarray, np.ndarray]:
    """What the removal of each image does to the Gini coefficient.

    Returns:
      (gain float64 [N]: its change to first order, the mean of the levels; safe bool [N]: whether
      no level's coefficient falls).
    """
    num_images, num_classes = len(self.removable), len(self.counts)
    gain, safe = np.zeros(num_images), np.ones(num_images, bool)
    for values, sizes, sums in zip(self.values, self.sizes, self.sums, strict=True):
      weight = np.empty(num_classes)  # [C]
      weight[np.argsort(sums, kind="stable")] = np.arange(num_classes, 0, -1)
      total = math.fsum(sums)  # fsum and bincount add in an order that no machine changes
      weighted = np.bincount(self.rows, values * weight[self.class_ids], num_images)  # [N]
      # Times the total first: at image level all this is whole numbers, free of rounding.
      score = weighted * total - sizes * math.fsum(weight * sums)  # [N]
      gain += score * (2 / (num_classes * total**2 * len(self.sums)))
      safe &= score >= 0
    return gain, safe

  def remove(self, images: np.ndarray) -> np.ndarray:
    """Takes images away in the given order, save those with the last occurrence of a class.

    Returns:
      The images that were taken away.
    """
    self.removable[images] = False
    taken = []
    for image in images:
      entries = slice(self.offsets[image], self.offsets[image + 1])
      class_ids = self.class_ids[entries]
      if np.all(self.counts[class_ids] > 1):
        self.counts[class_ids] -= 1
        for sums, values in zip(self.sums, self.values, strict=True):
          sums[class_ids] -= values[entries]
        taken.append(image)
    self.num_images -= len(taken)
    return np.array(taken, np.int64)


def _first(order_key: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
  """The `count` candidates of lowest key, ascending; equal keys keep the order of candidates."""
  key = order_key[candidates]
  if count < len(key):
    border = np.partition(key, count - 1)[count - 1]
    inside = np.nonzero(key <= border)[0]
    candidates, key = candidates[inside], key[inside]
  return candidates[np.argsort(key, kind="stable")[:count]]


def _checked_matrices(
  presence: np.ndarray, pixel_share: np.ndarray | None, level: str
) -> list[np.ndarray]:
  """What is counted at each level; raises a ValueError where an argument is not usable."""
  if level not in LEVELS:
    raise ValueError(f"There is no level {level!r}; the levels are {', '.join(LEVELS)}.")
  if presence.ndim != 2 or presence.dtype != bool or not presence.any():
    raise ValueError(
      "presence must be a bool array [images, classes] with a True in it, got"
      f" {presence.dtype} {list(presence.shape)} with {np.count_nonzero(presence)} of them."
    )
  if level == "image":
    return [presence]
  if pixel_share is None or pixel_share.shape != presence.shape:
    got = "none" if pixel_share is None else list(pixel_share.shape)
    raise ValueError(
      f"The level {level!r} needs pixel_share of the shape of presence, {list(presence.shape)},"
      f" got {got}."
    )
  if not (np.all(np.isfinite(pixel_share)) and pixel_share.min() >= 0 and pixel_share.any()):
    raise ValueError("pixel_share must be finite, not negative and not all 0.")
  return [pixel_share] if level == "pixel" else [presence, pixel_share]


def _check_targets(num_images: int, target_images: int | None, target_gini: float | None) -> None:
  if target_images is None and target_gini is None:
    raise ValueError("Give target_images, target_gini or both: else nothing says when to stop.")
  if target_images is not None and not 1 <= target_images <= num_images:
    raise ValueError(
      f"target_images is {target_images}; it must lie between 1 and the {num_images} images."
    )
  if target_gini is not None and not 0 <= target_gini < 1:
    raise ValueError(f"target_gini is {target_gini}; it must be at least 0 and below 1.")


def removals(
  presence: np.ndarray,
  pixel_share: np.ndarray | None = None,
  *,
  target_images: int | None,
  level: str = "image",
  seed: int = 0,
  target_gini: float | None = None,
) -> Iterator[np.ndarray]:
  """Yields the images that each iteration of the sampler takes away.

  The arguments are those of `greedy_subset`. An iteration takes at most one 400th of the images
  that have to go, and a single one in small sets. The Gini coefficient never falls (at both
  levels, where both were asked for) as long as an image with s_i >= 0 can go; after that the images
  go that lower it least. Where a target coefficient is given, this holds until it is reached; from
  then on those images go that keep it there.
  """
  matrices = _checked_matrices(presence, pixel_share, level)
  num_images = len(presence)
  _check_targets(num_images, target_images, target_gini)
  if seed < 0:
    raise ValueError(f"seed is {seed}; it must not be negative.")
  left = _Remaining.of_all(presence, matrices)
  order = np.random.default_rng(seed).permutation(num_images)  # decides between equal images
  last = 1 if target_images is None else target_images
  batch, reached = max(1, (num_images - last) // _ROUNDS), False
  while left.num_images > last:
    lacking = math.inf if target_gini is None else target_gini - left.gini()
    reached = reached or lacking <= 0
    if reached and target_images is None:
      return
    gain, safe = left.gains()
    key, eligible = -gain, left.removable & safe
    if reached:
      key, eligible = np.abs(gain - lacking / (left.num_images - last)), left.removable
    elif not eligible.any():
      if target_images is None:
        return
      eligible = left.removable
    if not eligible.any():
      raise ValueError(
        f"{left.num_images} images are left and each is the last one with some class, so that"
        f" target_images={target_images} cannot be reached: ask for at least {left.num_images}."
      )
    taken = left.remove(_first(key, order[eligible[order]], min(batch, left.num_images - last)))
    if len(taken):
      yield taken


def greedy_subset(
  presence: np.ndarray,
  pixel_share: np.ndarray | None = None,
  *,
  target_images: int | None,
  level: str = "image",
  seed: int = 0,
  target_gini: float | None = None,
) -> np.ndarray:
  """Chooses a long-tailed subset of a data set; every class that occurs in it is kept.

  Args:
    presence: whether the image shows the class, bool [N, C].
    pixel_share: share of the image's pixels that the class covers, float [N, C]; needed at the
      levels "pixel" and "both".
    target_images: number of images to keep; None: stop as soon as the target coefficient is
      reached, or where it cannot be raised further.
    level: counts whose Gini coefficient is to rise: "image" (images with the class), "pixel"
      (summed pixel share) or "both".
    seed: decides between images that are equally good to take away.
    target_gini: coefficient at which to stop raising; the lower level's where there are two. None:
      as high as it gets.

  Returns:
    The kept images, ascending, int64 [target_images]; a function of the arguments alone. A target
    coefficient that is missed by more than 0.005 is a warning.

  Raises:
    ValueError: if an argument is not usable, or if so few images cannot show every class.
  """
  kept = np.ones(len(presence), bool)
  for taken in removals(
    presence,
    pixel_share,
    target_images=target_images,
    level=level,
    seed=seed,
    target_gini=target_gini,
  ):
    kept[taken] = False
  if target_gini is not None:
    reached = min(
      class_stats.gini(matrix[kept].sum(axis=0, dtype=np.float64))
      for matrix in _checked_matrices(presence, pixel_share, level)
    )
    if reached < target_gini - 0.005:
      logging.warning(
        "The Gini coefficient of the subset is %.3f, not %.3f: the sampler finds no way to raise it"
        " further with %d images and every class kept.",
        reached,
        target_gini,
        np.count_nonzero(kept),
      )
  return np.nonzero(kept)[0]


def _average_ranks(values: np.ndarray) -> np.ndarray:
  """Ranks from 1, equal values share their mean rank, float64 [C]."""
  _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]


def comparison(counts: np.ndarray, official_counts: np.ndarray) -> dict[str, Any]:
  """How close per-class counts come to official ones.

  Args:
    counts: images or summed pixel shares per class [C].
    official_counts: the official numbers [C].

  Returns:
    `rank_correlation` (Spearman's; None where all the counts of a side are equal), `total` and
    `official_total` (sums over the classes), `total_difference` (sum of the absolute differences)
    and `relative_difference` (that, divided by the official total).

  Raises:
    ValueError: if the two do not have the same number of classes.
  """
  counts, official = np.asarray(counts), np.asarray(official_counts)
  if counts.shape != official.shape or counts.ndim != 1 or not len(counts):
    raise ValueError(
      f"The counts have the shape {list(counts.shape)}, the official ones {list(official.shape)}:"
      " give one number per class on both sides."
    )
  ranks = _average_ranks(counts), _average_ranks(official)
  is_defined = all(np.ptp(side) > 0 for side in ranks)
  difference, total = np.abs(counts - official).sum().item(), official.sum().item()
  return {
    "rank_correlation": float(np.corrcoef(*ranks)[0, 1]) if is_defined else None,
    "total": counts.sum().item(),
    "official_total": total,
    "total_difference": difference,
    "relative_difference": difference / total if total else None,
  }
