"""Per-class statistics of a data set: pixel counts, Gini coefficient, frequency groups.

Two levels run side by side: the number of images that show a class (image level) and the sum over
the images of the share of the image's area that the class covers (pixel level).
"""

import dataclasses
import io
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from input_pipeline import checked_files

GROUP_NAMES = ("rare", "common", "frequent")


@dataclasses.dataclass(frozen=True, eq=False)
class PixelCounts:
  """Pixels of every class in every image of a split, as a sparse matrix (CSR, one row an image).

  Attributes:
    height: image heights in pixels, int32 [N].
    width: image widths in pixels, int32 [N].
    row_offsets: row i is the slice row_offsets[i]:row_offsets[i + 1], int64 [N + 1].
    class_ids: classes that occur in the image, ascending in each row, int32 [NNZ].
    pixels: pixels of that class in that image, always positive, int64 [NNZ]. Ignored pixels are
      not listed.
  """

  height: np.ndarray
  width: np.ndarray
  row_offsets: np.ndarray
  class_ids: np.ndarray
  pixels: np.ndarray

  @classmethod
  def from_rows(
    cls,
    sizes: Iterable[tuple[int, int]],
    rows: Iterable[tuple[np.ndarray, np.ndarray]],
  ) -> "PixelCounts":
    """Builds the matrix from one entry per image, in record order.

    Args:
      sizes: (height, width) of each image, in pixels.
      rows: (class_ids, pixels) of each image, as `count_pixels` returns them.

    Returns:
      The counts of all the images.
    """
    sizes, rows = list(sizes), list(rows)
    if len(sizes) != len(rows):
      raise ValueError(f"{len(sizes)} image sizes but {len(rows)} rows of counts: give one each.")
    size_table = np.asarray(sizes, np.int32).reshape(-1, 2)  # [N, 2]
    lengths = [len(class_ids) for class_ids, _ in rows]
    return cls(
      height=size_table[:, 0].copy(),
      width=size_table[:, 1].copy(),
      row_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
      class_ids=_concatenate([class_ids for class_ids, _ in rows], np.int32),
      pixels=_concatenate([pixels for _, pixels in rows], np.int64),
    )

  def __len__(self) -> int:
    return len(self.height)

  def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (class_ids, pixels) of the image at `index`."""
    row = slice(self.row_offsets[index], self.row_offsets[index + 1])
    return self.class_ids[row], self.pixels[row]

  def save(self, path: epath.PathLike) -> None:
    """Writes the arrays as one .npz file (local or gs://)."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dataclasses.asdict(self))
    epath.Path(path).write_bytes(buffer.getvalue())

  @classmethod
  def load(cls, path: epath.PathLike) -> "PixelCounts":
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged; names it.
    """
    path = epath.Path(path)
    if not path.exists():
      raise FileNotFoundError(f"{path} is missing: prepare the data set again.")
    remedy = f"remove {path.parent} and prepare the data again."
    arrays = checked_files.read_npz(path, remedy)
    names = [field.name for field in dataclasses.fields(cls)]
    if missing := set(names) - arrays.keys():
      raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {remedy}")
    return cls(**{name: arrays[name] for name in names})


def _concatenate(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
  return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def count_pixels(
  label: np.ndarray, num_classes: int, ignore_label: int
) -> tuple[np.ndarray, np.ndarray]:
  """Counts the pixels of every class in one label map.

  Args:
    label: class indices, unsigned integers [H, W].
    num_classes: valid labels are 0 .. num_classes - 1.
    ignore_label: label of the pixels that belong to no class.

  Returns:
    (class_ids int32 [K], pixels int64 [K]) of the K classes that occur, ascending.

  Raises:
    ValueError: if a value is neither a class nor the ignore label.
  """
  counts = np.bincount(label.ravel(), minlength=num_classes)  # [V], V >= num_classes
  if ignore_label < len(counts):
    counts[ignore_label] = 0
  (values,) = np.nonzero(counts)
  if len(values) and values[-1] >= num_classes:
    outside = values[values >= num_classes]
    raise ValueError(
      f"label value {outside[0]} ({counts[outside[0]]} pixels; {len(outside)} such values in all)"
      f" is neither one of the {num_classes} classes (0..{num_classes - 1}) nor the ignore label"
      f" {ignore_label}"
    )
  return values.astype(np.int32), counts[values].astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassStats:
  """How often every class occurs in a split.

  Attributes:
    num_images: number of images N of the split.
    images_with_class: number of images that show the class, int64 [C].
    pixel_share_sum: sum over the images of (pixels of the class) / (H * W), float64 [C]. Ignored
      pixels stay in the denominator.
    repeat_threshold: published t of repeat factor sampling that goes with a published table, for
      frequencies at image level; None where none is published, or the numbers are of the data at
      hand.
    query_threshold: published t of the frequency-based matcher; None likewise.
  """

  num_images: int
  images_with_class: np.ndarray
  pixel_share_sum: np.ndarray
  repeat_threshold: float | None = None
  query_threshold: float | None = None


def class_stats(pixel_counts: PixelCounts, num_classes: int) -> ClassStats:
  """Sums the pixel counts of a split to statistics per class.

  Args:
    pixel_counts: counts of N images.
    num_classes: number of classes C.

  Returns:
    The statistics, arrays [C].
  """
  area = pixel_counts.height.astype(np.int64) * pixel_counts.width  # [N]
  share = pixel_counts.pixels / np.repeat(area, np.diff(pixel_counts.row_offsets))  # [NNZ]
  return ClassStats(
    num_images=len(pixel_counts),
    images_with_class=np.bincount(pixel_counts.class_ids, minlength=num_classes),
    pixel_share_sum=np.bincount(pixel_counts.class_ids, weights=share, minlength=num_classes),
  )


def gini(counts: np.ndarray) -> float:
  """Gini coefficient of per-class counts: 0 for a uniform distribution, towards 1 for a long tail.

  G = (C + 1 - 2 * sum(cum) / cum[-1]) / C, with cum the cumulative sum of the ascending counts.

  Args:
    counts: images or summed pixel shares per class, non-negative [C].

  Returns:
    The coefficient, 0 <= G <= 1 - 1 / C.

  Raises:
    ValueError: if all the counts are zero, where it is not defined.
  """
  cumulative = np.cumsum(np.sort(np.asarray(counts, np.float64)))  # [C]
  if not len(cumulative) or cumulative[-1] <= 0:
    raise ValueError(f"The Gini coefficient needs a positive count, got {counts}.")
  num_classes = len(cumulative)
  return float((num_classes + 1 - 2 * cumulative.sum() / cumulative[-1]) / num_classes)


def group_borders(counts: np.ndarray) -> tuple[float, float]:
  """Counts at which the common and the frequent group begin.

  Args:
    counts: images or summed pixel shares per class [C].

  Returns:
    (a, b): rare is x < a, common a <= x < b, frequent x >= b, with a and b the entries int(0.2 C)
    and int(0.4 C) of the ascending counts.
  """
  ascending = np.sort(np.asarray(counts))
  num_classes = len(ascending)
  return float(ascending[int(0.2 * num_classes)]), float(ascending[int(0.4 * num_classes)])


def frequency_groups(counts: np.ndarray) -> np.ndarray:
  """Assigns every class to a frequency group.

  Args:
    counts: images or summed pixel shares per class [C].

  Returns:
    Index into `GROUP_NAMES`, int64 [C].
  """
  return np.digitize(np.asarray(counts, np.float64), group_borders(counts))


def frequency_threshold(counts: np.ndarray, num_images: int) -> float:
  """Frequency at the rare/common border, for data sets without a published threshold.

  Args:
    counts: number of images per class, or summed pixel share per class [C].
    num_images: number of images N of the split.

  Returns:
    t = a / N with a from `group_borders`.
  """
  return group_borders(counts)[0] / num_images


def _rarity(frequency: np.ndarray, threshold: float) -> np.ndarray:
  """sqrt(t / f) per class, and 0 where f is 0."""
  frequency = np.asarray(frequency, np.float64)
  if not 0 <= threshold < np.inf:
    raise ValueError(f"threshold is {threshold}; it must be a frequency, not negative.")
  if not np.all((frequency >= 0) & np.isfinite(frequency)):
    raise ValueError(f"frequency holds a negative or infinite value or a NaN: {frequency}.")
  ratio = np.divide(threshold, frequency, out=np.zeros_like(frequency), where=frequency > 0)
  return np.sqrt(ratio)


def class_repeat_factors(frequency: np.ndarray, threshold: float) -> np.ndarray:
  """How often an image with a class is to be drawn per epoch: r = max(1, sqrt(t / f)).

  A class of frequency 0 has the factor 1: no image holds it, so that it can repeat none, and a
  larger number would only spoil the means and sums over classes.

  Args:
    frequency: images with the class, or its summed pixel share, divided by the number of images;
      non-negative [C].
    threshold: frequency t below which classes are repeated.

  Returns:
    The factors, at least 1, float64 [C].

  Raises:
    ValueError: if the threshold or a frequency is negative or no number.

  Source: repeat factor sampling of LVIS.
  """
  return np.maximum(1.0, _rarity(frequency, threshold))


def queries_per_class(frequency: np.ndarray, threshold: float, scale: float) -> np.ndarray:
  """Queries of a target in the frequency-based matcher, ceil(max(1, s * sqrt(t / f))) per class.

  A class of frequency 0 has one query: training never shows it, so that the number is not used.

  Args:
    frequency: fraction of the training images that show the class, non-negative [C].
    threshold: frequency t at about the border between rare and common classes.
    scale: s.

  Returns:
    The numbers, at least 1, int64 [C].

  Raises:
    ValueError: if the threshold, the scale or a frequency is negative or no number.
  """
  if not 0 <= scale < np.inf:
    raise ValueError(f"scale is {scale}; it must not be negative.")
  return np.ceil(np.maximum(1.0, scale * _rarity(frequency, threshold))).astype(np.int64)
