"""Collects the long-tail statistics of a data set into a summary that goes to JSON as it is."""

import dataclasses
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from input_pipeline import class_stats, datasets, lt_sampling, prepared

LEVELS = ("image_level", "pixel_level")


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
  """What is known about a data set; at least one of `official` and `splits` is there.

  Attributes:
    metadata: class names and ids.
    official: official statistics of the training split; None where none are published.
    splits: statistics of every prepared split; empty where only the official table was asked for.
    classes_per_image: number of classes in every image of the split, int64 [N] each.
  """

  metadata: prepared.ClassMetadata
  official: class_stats.ClassStats | None
  splits: dict[str, class_stats.ClassStats]
  classes_per_image: dict[str, np.ndarray]

  @property
  def groups_from(self) -> str:
    """Whose counts decide on the frequency groups: "official" or "train"."""
    return "official" if self.official is not None else "train"

  @property
  def deciding(self) -> class_stats.ClassStats:
    """The statistics that decide on the frequency groups."""
    return self.official if self.official is not None else self.splits["train"]


def level_counts(stats: class_stats.ClassStats) -> dict[str, np.ndarray]:
  """Returns the counts per class at both levels, [C] each."""
  return dict(zip(LEVELS, (stats.images_with_class, stats.pixel_share_sum), strict=True))


def from_table(name: str) -> Statistics:
  """Statistics of a published data set from its official table alone.

  Raises:
    ValueError: if there is no such data set, or its table has no counts.
  """
  spec = datasets.find_spec(name)
  if spec.official_stats is None:
    counted = [spec.name for spec in datasets.SPECS.values() if spec.official_stats]
    raise ValueError(
      f"No official counts are published for {name}; give the directory of its prepared data."
      f" Tables with counts: {', '.join(counted)}."
    )
  return Statistics(spec.class_table.metadata, spec.official_stats, {}, {})


def from_directory(directory: epath.PathLike) -> Statistics:
  """Statistics of a prepared data set, from its stored counts; no image is read.

  Raises:
    FileNotFoundError: if the directory holds no complete data set.
  """
  missing = prepared.missing_files(directory)
  if missing:
    raise FileNotFoundError(
      f"{directory} holds no complete prepared data set; missing: {', '.join(missing)}. Give a"
      " directory <data_dir>/<data set>/<version>, or the name of a published data set for its"
      f" official table alone: {', '.join(datasets.PUBLISHED)}."
    )
  metadata = prepared.read_metadata(directory)
  counts = {split: prepared.read_pixel_counts(directory, split) for split in prepared.SPLITS}
  return Statistics(
    metadata=metadata,
    official=_official_stats(metadata),
    splits={s: class_stats.class_stats(c, metadata.num_classes) for s, c in counts.items()},
    classes_per_image={s: np.diff(c.row_offsets) for s, c in counts.items()},
  )


def _official_stats(metadata: prepared.ClassMetadata) -> class_stats.ClassStats | None:
  if metadata.name not in datasets.PUBLISHED:
    return None
  table = datasets.find_spec(metadata.name).class_table
  if table.metadata.class_names != metadata.class_names:
    logging.warning(
      "The data set is called %s, but its classes are not those of the official table: not"
      " compared.",
      metadata.name,
    )
    return None
  return table.train_stats


def _level(counts: np.ndarray, num_images: int) -> dict[str, Any]:
  borders = class_stats.group_borders(counts)
  sizes = np.bincount(class_stats.frequency_groups(counts), minlength=3)
  return {
    "gini": class_stats.gini(counts) if counts.any() else None,
    "group_borders": list(borders),
    "group_sizes": dict(zip(class_stats.GROUP_NAMES, sizes.tolist(), strict=True)),
    "border_frequency": borders[0] / num_images if num_images else None,
    "smallest": counts.min().item(),
    "median": float(np.median(counts)),
    "largest": counts.max().item(),
  }


def _split(stats: class_stats.ClassStats) -> dict[str, Any]:
  absent = int(np.sum(stats.images_with_class == 0))
  levels = {level: _level(c, stats.num_images) for level, c in level_counts(stats).items()}
  return {"num_images": stats.num_images, "classes_without_image": absent, **levels}


def _comparison(data: class_stats.ClassStats, official: class_stats.ClassStats) -> dict[str, Any]:
  result: dict[str, Any] = {
    "num_images": data.num_images,
    "official_num_images": official.num_images,
  }
  ours, theirs = level_counts(data), level_counts(official)
  for level in LEVELS:
    groups = class_stats.frequency_groups(ours[level]), class_stats.frequency_groups(theirs[level])
    result[level] = lt_sampling.comparison(ours[level], theirs[level])
    result[level]["classes_in_another_group"] = int(np.sum(groups[0] != groups[1]))
  return result


def _classes(statistics: Statistics) -> list[dict[str, Any]]:
  """One row a class, in the order of the labels."""
  metadata = statistics.metadata
  columns: dict[str, list[Any]] = {
    "train_id": list(range(metadata.num_classes)),
    "dataset_id": list(metadata.dataset_ids),
    "name": list(metadata.class_names),
  }
  for level, counts in level_counts(statistics.deciding).items():
    groups = class_stats.frequency_groups(counts)
    columns[f"{level}_group"] = [class_stats.GROUP_NAMES[group] for group in groups]
  sources = {"official": statistics.official, **statistics.splits}
  for source, stats in sources.items():
    if stats is not None:
      columns[f"{source}_images"] = stats.images_with_class.tolist()
      columns[f"{source}_pixel_share_sum"] = stats.pixel_share_sum.tolist()
  rows = zip(*columns.values(), strict=True)
  return [dict(zip(columns, row, strict=True)) for row in rows]


def summary(statistics: Statistics) -> dict[str, Any]:
  """The summary that `statistics.json` holds; docs/statistics.md explains its fields.

  Args:
    statistics: statistics of the data set.

  Returns:
    Nested dicts and lists of plain Python values.
  """
  metadata, official = statistics.metadata, statistics.official
  splits = {name: _split(stats) for name, stats in statistics.splits.items()}
  for name, number in statistics.classes_per_image.items():
    splits[name]["classes_per_image"] = float(number.mean()) if len(number) else None
    splits[name]["images_per_number_of_classes"] = np.bincount(number).tolist()
  compare = official is not None and "train" in statistics.splits
  return {
    "name": metadata.name,
    "num_classes": metadata.num_classes,
    "groups_from": statistics.groups_from,
    "official": None if official is None else _split(official),
    "splits": splits,
    "comparison": _comparison(statistics.splits["train"], official) if compare else None,
    "classes": _classes(statistics),
  }
