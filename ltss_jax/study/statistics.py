"""Means, deviations and paired differences of scores over seeds; IoU of the classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

# Method -> seed -> content of its JSON, as `study_files.Folder.load` returns it.
Study = Mapping[str, Mapping[int, dict[str, Any]]]

# What is compared -> where it stands in the result of `evaluation_result.make_result`.
METRICS = {
  "mIoU": ("mIoU",),
  "image rare": ("image_level", "rare"),
  "image common": ("image_level", "common"),
  "image frequent": ("image_level", "frequent"),
  "pixel rare": ("pixel_level", "rare"),
  "pixel common": ("pixel_level", "common"),
  "pixel frequent": ("pixel_level", "frequent"),
}


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric of one method over its seeds.

  Attributes:
    mean: percent; None where no seed has a value.
    deviation: standard deviation of one run (n - 1), percent; None for fewer than two seeds.
    count: number of seeds with a value.
  """

  mean: float | None
  deviation: float | None
  count: int


@dataclasses.dataclass(frozen=True)
class Difference:
  """Difference of a method to the baseline, over the seeds that both have.

  Attributes:
    mean: percentage points; None without a common seed.
    standard_error: standard error of the mean; None for fewer than two seeds.
    p_value: p of the two-sided paired t-test; None where there is no standard error, or it is 0.
    count: number of common seeds.
  """

  mean: float | None
  standard_error: float | None
  p_value: float | None
  count: int

  @property
  def is_clear(self) -> bool:
    """Whether it is more than two standard errors from 0."""
    return self.standard_error is not None and abs(self.mean) > 2 * self.standard_error


def values_by_seed(results: Mapping[int, dict[str, Any]], metric: str) -> dict[int, float]:
  """Picks one of `METRICS` from results.

  Args:
    results: seed -> result of `evaluation_result.make_result`.
    metric: a key of `METRICS`.

  Returns:
    Seed -> percent, without the seeds whose result has no number.
  """
  found = {}
  for seed, result in results.items():
    value: Any = result
    for key in METRICS[metric]:
      value = value[key]
    if value is not None:
      found[seed] = float(value)
  return found


def score(values: Mapping[int, float]) -> Score:
  """Mean and standard deviation over the seeds.

  Args:
    values: seed -> percent.
  """
  array = np.array(list(values.values()))  # [S]
  return Score(
    mean=float(array.mean()) if array.size else None,
    deviation=float(array.std(ddof=1)) if array.size > 1 else None,
    count=array.size,
  )


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
  """Mean difference over the common seeds, its standard error and the paired t-test.

  Args:
    values: seed -> percent, of the method.
    baseline: likewise.
  """
  seeds = sorted(values.keys() & baseline.keys())
  ours, theirs = (np.array([v[seed] for seed in seeds]) for v in (values, baseline))  # [S]
  difference = ours - theirs
  if not seeds:
    return Difference(None, None, None, 0)
  mean = float(difference.mean())
  if len(seeds) == 1:
    return Difference(mean, None, None, 1)
  error = float(stats.sem(difference))
  # Equal differences, as of a method that changes nothing, leave nothing to test.
  p_value = float(stats.ttest_rel(ours, theirs).pvalue) if np.ptp(difference) > 0 else None
  return Difference(mean, error, p_value, len(seeds))


def class_iou(results: Sequence[dict[str, Any]]) -> np.ndarray:
  """IoU of every class in every result.

  Args:
    results: S results of `evaluation_result.make_result`, of the same C classes.

  Returns:
    Percent, NaN where a class has none, float64 [S, C].
  """
  rows = [[entry["IoU"] for entry in result["per_class"]] for result in results]
  return np.array(rows, np.float64)  # None -> NaN


def mean_over_seeds(iou: np.ndarray) -> np.ndarray:
  """Mean of the rows without their NaNs; NaN where a class has nothing else.

  Args:
    iou: [S, C].

  Returns:
    Float64 [C].
  """
  valid = np.isfinite(iou)
  count = valid.sum(axis=0)
  total = np.where(valid, iou, 0).sum(axis=0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)
