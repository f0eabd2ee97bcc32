"""Class tables of the six published data sets: names, ids, official training counts.

The long-tailed three carry the official per-class counts of the training split; the tables stand as
CSV files in `tables/`.
"""

import csv
import dataclasses
import difflib
import functools
import pathlib

import numpy as np

from input_pipeline import class_stats, prepared

_TABLES = pathlib.Path(__file__).parent / "tables"
# The left and right classes of MHP-v2 swap under a horizontal flip.
_MHP_FLIP_PAIRS = ((5, 6), (7, 8), (22, 23), (24, 25), (26, 27), (28, 29), (30, 31), (32, 33))


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """Published facts about a data set.

  Attributes:
    metadata: class names, ids, ignore label and flip pairs.
    num_train_images: published number of training images.
    num_val_images: published number of validation images.
    train_stats: official statistics of the training split; None where none are published.
  """

  metadata: prepared.ClassMetadata
  num_train_images: int
  num_val_images: int
  train_stats: class_stats.ClassStats | None


@dataclasses.dataclass(frozen=True)
class _Facts:
  num_train_images: int
  num_val_images: int
  ignore_label: int = 255
  flip_pairs: tuple[tuple[int, int], ...] = ()


_FACTS = {
  "ade20k": _Facts(20_210, 2_000),
  "ade20k_full": _Facts(25_574, 2_000, ignore_label=65535),
  "coco_stuff": _Facts(118_287, 5_000),
  "coco_stuff_lt": _Facts(40_679, 5_000),
  "mhp_v2": _Facts(15_403, 5_000, flip_pairs=_MHP_FLIP_PAIRS),
  "mhp_v2_lt": _Facts(6_931, 5_000, flip_pairs=_MHP_FLIP_PAIRS),
}
NAMES = tuple(_FACTS)


def nearest_name(name: str, names: tuple[str, ...]) -> str:
  """The entry of `names` that is spelled most like `name`."""
  return max(names, key=lambda valid: difflib.SequenceMatcher(None, name, valid).ratio())


@functools.cache
def load_class_table(name: str) -> ClassTable:
  """Loads the class table of a published data set.

  Args:
    name: one of `NAMES`.

  Returns:
    The table; its arrays are read-only.

  Raises:
    ValueError: if there is no such data set; names the nearest valid name.
  """
  if name not in _FACTS:
    raise ValueError(
      f"There is no class table {name!r}; did you mean {nearest_name(name, NAMES)!r}?"
      f" Tables: {', '.join(NAMES)}."
    )
  facts = _FACTS[name]
  with (_TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  return ClassTable(
    metadata=prepared.ClassMetadata(
      name=name,
      class_names=tuple(row["name"] for row in rows),
      dataset_ids=tuple(int(row["dataset_id"]) for row in rows),
      ignore_label=facts.ignore_label,
      flip_pairs=facts.flip_pairs,
    ),
    num_train_images=facts.num_train_images,
    num_val_images=facts.num_val_images,
    train_stats=_train_stats(name, rows, facts.num_train_images),
  )


def _train_stats(
  name: str, rows: list[dict[str, str]], num_images: int
) -> class_stats.ClassStats | None:
  if "train_images_with_class" not in rows[0]:
    return None
  images_with_class = np.array([int(row["train_images_with_class"]) for row in rows], np.int64)
  pixel_share_sum = np.array([float(row["train_pixel_share_sum"]) for row in rows], np.float64)
  for array in (images_with_class, pixel_share_sum):
    array.flags.writeable = False  # the record is cached and shared
  return class_stats.ClassStats(num_images, images_with_class, pixel_share_sum, name)
