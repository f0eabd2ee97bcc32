"""Validation images with their predictions: kept in a file, painted for people to look at."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from input_pipeline import checked_files, resize
from ltss_jax.visualization import palette
from ltss_jax.workdir import atomic_file

NUM_WORST = NUM_BEST = 4
MAX_SIDE = 480  # px, of the kept pictures
_REMEDY = "evaluate again, or remove it"


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """One validation image with its prediction.

  Attributes:
    file_name: file name of the image's record.
    miou: mean IoU over the classes that label or prediction show, as a fraction; nan where no pixel
      is labelled.
    image: uint8 [H, W, 3].
    label: integers [H, W].
    prediction: integers [H, W].
  """

  file_name: str
  miou: float
  image: np.ndarray
  label: np.ndarray
  prediction: np.ndarray


def worst_and_best(examples: Iterable[Example]) -> list[Example]:
  """Keeps the NUM_WORST worst and the NUM_BEST best examples, worst first, made small.

  Images without a labelled pixel are left out.
  """
  kept: list[Example] = []
  for example in examples:
    if not np.isnan(example.miou):
      kept = sorted([*kept, _small(example)], key=lambda e: (e.miou, e.file_name))
      if len(kept) > NUM_WORST + NUM_BEST:
        del kept[NUM_WORST]
  return kept


def _small(example: Example) -> Example:
  """Shrinks to MAX_SIDE; label maps by the nearest pixel."""
  height, width = example.label.shape
  scale = min(1, MAX_SIDE / max(height, width))
  size = tuple(max(1, round(side * scale)) for side in (height, width))
  return dataclasses.replace(
    example,
    image=resize.resize_image(example.image, *size),
    label=resize.resize_label(example.label, *size),
    prediction=resize.resize_label(example.prediction, *size),
  )


def save(examples: Sequence[Example], path: epath.PathLike) -> None:
  """Writes examples as one .npz file (local or gs://)."""
  arrays = {
    "file_names": np.array([e.file_name for e in examples], np.str_),
    "miou": np.array([e.miou for e in examples], np.float64),
  }
  for i, example in enumerate(examples):
    arrays |= {
      f"image_{i}": example.image,
      f"label_{i}": example.label,
      f"prediction_{i}": example.prediction,
    }
  with atomic_file.atomic_write(path) as file:
    np.savez_compressed(file, **arrays)


def load(path: epath.PathLike) -> list[Example]:
  """Reads what `save` wrote.

  Raises:
    OSError, ValueError: the file is not there or is not such a file.
  """
  arrays = checked_files.read_npz(path, _REMEDY)
  try:
    names, miou = arrays["file_names"].tolist(), arrays["miou"].tolist()
    return [
      Example(name, value, arrays[f"image_{i}"], arrays[f"label_{i}"], arrays[f"prediction_{i}"])
      for i, (name, value) in enumerate(zip(names, miou, strict=True))
    ]
  except KeyError as error:
    raise ValueError(f"{path} holds no examples, it lacks {error}; {_REMEDY}") from error


def paint(image: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
  """Paints a label map over its image, pixels of no class darkened.

  Args:
    image: uint8 [H, W, 3].
    label: integers [H, W]; values from num_classes on are of no class.
    num_classes: C.

  Returns:
    uint8 [H, W, 3].
  """
  colors = np.concatenate([palette.class_colors(num_classes), np.zeros((1, 3), np.uint8)])
  return palette.overlay(image, np.minimum(label, num_classes), colors)


def side_by_side(example: Example, num_classes: int) -> np.ndarray:
  """The image, its label and its prediction painted over it, uint8 [H, 3 W, 3]."""
  painted = [
    paint(example.image, labels, num_classes) for labels in (example.label, example.prediction)
  ]
  return np.concatenate([example.image, *painted], axis=1)
