"""data.json of a workdir: which classes and images a run was trained on, wherever they lie now."""

import hashlib
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import class_stats, prepared
from ltss_jax import whole_file, workdir as files
from ltss_jax.dataset import Dataset


def write(workdir: epath.PathLike, dataset: Dataset) -> None:
  """Notes the data of a new run.

  Args:
    workdir: of the run, which exists.
    dataset: of the run.
  """
  whole_file.write_json(files.data(workdir), _facts(dataset))


def check(workdir: epath.PathLike, dataset: Dataset) -> None:
  """Compares a data set with the one that a run was started with.

  Args:
    workdir: of the run; without a data.json there is nothing to compare.
    dataset: of this process.

  Raises:
    ValueError: they are not the same; says in what.
  """
  _compare(workdir, _facts(dataset))


def check_classes(workdir: epath.PathLike, metadata: prepared.ClassMetadata) -> None:
  """Compares what labels mean with what they meant when a run was trained.

  Args:
    workdir: of the run; without a data.json there is nothing to compare.
    metadata: of the data of this process.

  Raises:
    ValueError: it is not the same; says in what.
  """
  _compare(workdir, _class_facts(metadata))


def _class_facts(metadata: prepared.ClassMetadata) -> dict[str, Any]:
  return {"classes": list(metadata.class_names), "ignore_label": metadata.ignore_label}


def _facts(dataset: Dataset) -> dict[str, Any]:
  return _class_facts(dataset.metadata) | {
    "train_images": len(dataset.train_counts),
    "val_images": len(dataset.val_counts),
    "train_labels": _digest(dataset.train_counts),
    "val_labels": _digest(dataset.val_counts),
  }


def _digest(counts: class_stats.PixelCounts) -> str:
  """Of the sizes of all images and of their pixels of every class, in the order of the images."""
  digest = hashlib.sha256()
  for array in (counts.height, counts.width, counts.row_offsets, counts.class_ids, counts.pixels):
    digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
  return digest.hexdigest()


def _compare(workdir: epath.PathLike, now: dict[str, Any]) -> None:
  path = files.data(workdir)
  if not path.exists():
    return
  saved = whole_file.read_json(path)
  different = [
    f"  {name}: {_shown(saved.get(name))} there, {_shown(value)} now"
    for name, value in now.items()
    if saved.get(name) != value
  ]
  if different:
    raise ValueError(
      f"{workdir} holds a run on other data:\n"
      + "\n".join(different)
      + "\nUse another --workdir, or the data of that run."
    )


def _shown(value: Any) -> str:
  if isinstance(value, list):
    return f"{len(value)} ({', '.join(value[:5])}{', ...' if len(value) > 5 else ''})"
  return value[:12] if isinstance(value, str) else repr(value)
