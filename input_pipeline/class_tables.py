"""Class tables of the published data sets: names, ids, official training counts.

The long-tailed ones carry the official per-class counts of the training split; the tables stand as
CSV files in `tables/`.
"""

import csv
import dataclasses
import functools
import pathlib

import numpy as np

from input_pipeline import class_stats, prepared

_TABLES = pathlib.Path(__file__).parent / "tables"


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """Published facts about a data set, and the rows of its file.

  Attributes:
    name: name of the data set and of its file.
    num_train_images: published number of training images.
    num_val_images: published number of validation images.
    ignore_label: label of the pixels that belong to no class.
    flip_pairs: classes that swap under a horizontal flip.
    repeat_threshold: t of repeat factor sampling, for frequencies at image level; None where none
      is published.
    query_threshold: t of the frequency-based matcher; None likewise.
  """

  name: str
  num_train_images: int
  num_val_images: int
  ignore_label: int = 255
  flip_pairs: tuple[tuple[int, int], ...] = ()
  repeat_threshold: float | None = None
  query_threshold: float | None = None

  @functools.cached_property
  def metadata(self) -> prepared.ClassMetadata:
    """Class names, ids, ignore label and flip pairs."""
    return prepared.ClassMetadata(
      name=self.name,
      class_names=tuple(self._column("name", str)),
      dataset_ids=tuple(self._column("dataset_id", int)),
      ignore_label=self.ignore_label,
      flip_pairs=self.flip_pairs,
    )

  @functools.cached_property
  def train_stats(self) -> class_stats.ClassStats | None:
    """Official statistics of the training split, read-only; None where none are published."""
    if "train_images_with_class" not in self._rows[0]:
      return None
    images_with_class = np.array(self._column("train_images_with_class", int), np.int64)
    pixel_share_sum = np.array(self._column("train_pixel_share_sum", float), np.float64)
    for array in (images_with_class, pixel_share_sum):
      array.flags.writeable = False  # the statistics are cached and shared
    return class_stats.ClassStats(
      self.num_train_images,
      images_with_class,
      pixel_share_sum,
      self.repeat_threshold,
      self.query_threshold,
    )

  @functools.cached_property
  def _rows(self) -> list[dict[str, str]]:
    with (_TABLES / f"{self.name}.csv").open(encoding="utf-8", newline="") as file:
      return list(csv.DictReader(file))

  def _column(self, name: str, kind: type) -> list:
    return [kind(row[name]) for row in self._rows]
