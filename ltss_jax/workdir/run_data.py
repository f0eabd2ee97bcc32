"""data.json of a workdir: which classes and images a run was trained on, wherever they lie now."""

import hashlib
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import class_stats, decode, prepared
from ltss_jax.dataset import Dataset
from ltss_jax.workdir import atomic_file, paths

# Validation images whose content is compared, spread over the split: data that differ in the images
# alone (blurred, recoloured) differ in all of them as a rule, and these are read in no time.
_SAMPLE_IMAGES = 32
_SAMPLE = "val_sample"
_JPEG_START = b"\xff\xd8"


def write(workdir: epath.PathLike, dataset: Dataset) -> None:
  """Notes the data of a new run.

  Args:
    workdir: workdir of the run, which exists.
    dataset: data set of the run.
  """
  facts = _class_facts(dataset.metadata) | _label_facts(dataset)
  atomic_file.write_json(paths.data(workdir), facts | {_SAMPLE: _sample_digest(dataset)})


def evaluated(dataset: Dataset) -> dict[str, Any]:
  """What the result of an evaluation says of its data; see `results.evaluated_data`.

  The training images are part of it: the groups of the classes follow from them.

  Args:
    dataset: data set that is evaluated.

  Returns:
    {"name" of the data set, "train_images", "val_images", "train_labels", "val_labels",
    "val_sample"}: numbers and digests, but for the name as in data.json.
  """
  facts = {"name": dataset.metadata.name} | _label_facts(dataset)
  return facts | {_SAMPLE: _sample_digest(dataset)}


def check(workdir: epath.PathLike, dataset: Dataset) -> None:
  """Compares a data set with the one that a run was started with.

  Args:
    workdir: workdir of the run; without a data.json there is nothing to compare.
    dataset: data set of this process.

  Raises:
    ValueError: they are not the same; says in what.
  """
  _compare(workdir, _class_facts(dataset.metadata) | _label_facts(dataset))


def check_classes(workdir: epath.PathLike, metadata: prepared.ClassMetadata) -> None:
  """Compares what labels mean with what they meant when a run was trained.

  Args:
    workdir: workdir of the run; without a data.json there is nothing to compare.
    metadata: metadata of this process's data.

  Raises:
    ValueError: it is not the same; says in what.
  """
  _compare(workdir, _class_facts(metadata))


def class_names(workdir: epath.PathLike) -> list[str] | None:
  """Names of the classes that a run was trained on; None where it has no data.json.

  Raises:
    ValueError: the file is damaged, or was edited.
  """
  path = paths.data(epath.Path(workdir).expanduser())
  return atomic_file.read_json(path).get("classes") if path.exists() else None


def _class_facts(metadata: prepared.ClassMetadata) -> dict[str, Any]:
  return {"classes": list(metadata.class_names), "ignore_label": metadata.ignore_label}


def _label_facts(dataset: Dataset) -> dict[str, Any]:
  return {
    "train_images": len(dataset.train_counts),
    "val_images": len(dataset.val_counts),
    "train_labels": _digest(dataset.train_counts),
    "val_labels": _digest(dataset.val_counts),
  }


def _digest(counts: class_stats.PixelCounts) -> str:
  """Digest of the sizes of all images and of their pixels of every class, in the images' order."""
  digest = hashlib.sha256()
  for array in (counts.height, counts.width, counts.row_offsets, counts.class_ids, counts.pixels):
    digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
  return digest.hexdigest()


def _sample_digest(dataset: Dataset) -> str:
  """Digest of the names and the content of some validation images.

  JPEGs are stored as they came; a PNG may have been encoded here, by another library each time.
  """
  digest = hashlib.sha256()
  source = prepared.open_source(dataset.directory, "val")
  for index in np.unique(np.linspace(0, len(source) - 1, _SAMPLE_IMAGES).astype(int)):
    record = source[index]
    name, image = record["file_name"], record["image"]
    is_jpeg = image.startswith(_JPEG_START)
    content = image if is_jpeg else decode.decode_image(image, name).tobytes()
    digest.update(f"{name}\0{len(content)}\0".encode())
    digest.update(content)
  return digest.hexdigest()


def _compare(workdir: epath.PathLike, now: dict[str, Any]) -> None:
  path = paths.data(workdir)
  if not path.exists():
    return
  saved = atomic_file.read_json(path)
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
