"""The result of an evaluation: its scores, its file and its table."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from ltss_jax.results import metrics
from ltss_jax.workdir import atomic_file

PERCENT_DIGITS = 4  # more would be noise; fewer would hide a pixel of a rare class
SHARE_DIGITS = 6
TOTALS = ("mIoU", "fwIoU", "mACC", "pACC")
# Level -> field of a class that its groups follow from, and what that is, for the axis of a figure.
FREQUENCIES = {
  "image": ("train_images", "training images with the class"),
  "pixel": ("train_pixel_share", "summed share of the training images' pixels"),
}

# Fields of a plain evaluation: the whole image once, in its own shape, scores as they are.
_PLAIN = {"scales": [], "flip": False, "window": 0, "shape_multiple": 1, "logit_adjustment": 0.0}

_NAME_WIDTH = 36  # columns; ADE20K-Full names classes by long lists of synonyms


def make_result(
  confusion: np.ndarray,
  *,
  class_names: Sequence[str],
  train_images: np.ndarray,
  train_pixel_share: np.ndarray,
  image_groups: np.ndarray,
  pixel_groups: np.ndarray,
) -> dict[str, Any]:
  """Computes the result of an evaluation; equal counts give equal results.

  Args:
    confusion: [C, C] integers, row = label, column = prediction.
    class_names: C names.
    train_images: [C] integers, number of training images with the class.
    train_pixel_share: [C] floats, the class's share of an image's pixels, summed over the training
      images.
    image_groups: [C] integers by train_images: 0 rare, 1 common, 2 frequent.
    pixel_groups: [C] integers by train_pixel_share: 0 rare, 1 common, 2 frequent.

  Returns:
    A dict that JSON can hold: `mIoU, fwIoU, mACC, pACC` (percent), `image_level` and `pixel_level`
    (each {"rare", "common", "frequent"}, percent) and `per_class`, in the order of the classes.
    None stands where no labelled (for IoU: or predicted) pixel gives a number.

  Raises:
    ValueError: the arguments differ in their number of classes.
  """
  for name, array in (
    ("confusion", confusion),
    ("train_images", train_images),
    ("train_pixel_share", train_pixel_share),
    ("image_groups", image_groups),
    ("pixel_groups", pixel_groups),
  ):
    if len(array) != len(class_names):
      raise ValueError(
        f"{name} is of {len(array)} classes, but there are {len(class_names)} class names"
      )
  scores = metrics.segmentation_scores(confusion)
  return {
    "mIoU": _percent(scores.miou),
    "fwIoU": _percent(scores.fwiou),
    "mACC": _percent(scores.macc),
    "pACC": _percent(scores.pacc),
    "image_level": _grouped(scores.iou, image_groups),
    "pixel_level": _grouped(scores.iou, pixel_groups),
    "per_class": [
      {
        "class_id": c,
        "name": name,
        "train_images": int(train_images[c]),
        "train_pixel_share": round(float(train_pixel_share[c]), SHARE_DIGITS),
        "image_group": metrics.GROUP_NAMES[image_groups[c]],
        "pixel_group": metrics.GROUP_NAMES[pixel_groups[c]],
        "IoU": _percent(scores.iou[c]),
        "accuracy": _percent(scores.accuracy[c]),
      }
      for c, name in enumerate(class_names)
    ],
  }


def _grouped(iou: np.ndarray, groups: np.ndarray) -> dict[str, float | None]:
  means = metrics.grouped_miou(iou, groups)
  return {name: None if mean is None else _percent(mean) for name, mean in means.items()}


def _percent(fraction: float) -> float | None:
  return None if np.isnan(fraction) else round(100 * float(fraction), PERCENT_DIGITS)


def write_result(result: dict[str, Any], path: epath.PathLike) -> None:
  """Writes a result as JSON, atomically.

  Args:
    result: result by `make_result`.
    path: the file, local or remote; missing folders are made.

  Raises:
    OSError: the file cannot be written; one that was there stays as it is.
  """
  atomic_file.write_json(path, result, allow_nan=False)


def not_plain(result: dict[str, Any]) -> str:
  """Fields of an evaluation beyond the plain whole image, "eval.flip=True, ..."; "" without any."""
  options = result.get("eval", {})
  return ", ".join(
    f"eval.{name}={options[name]}"
    for name, plain in _PLAIN.items()
    if options.get(name, plain) != plain
  )


def summary_line(result: dict[str, Any]) -> str:
  """Formats the totals and the groups of a result as one line, in percent."""
  totals = ", ".join(f"{name} {_number(result[name])}" for name in TOTALS)
  levels = (
    f"{level.replace('_', ' ')} {'/'.join(_number(value) for value in result[level].values())}"
    for level in ("image_level", "pixel_level")
  )
  return f"{totals}; mIoU of {'/'.join(metrics.GROUP_NAMES)} classes: {', '.join(levels)}"


def format_table(result: dict[str, Any]) -> str:
  """Formats a result for reading.

  Args:
    result: result by `make_result`.

  Returns:
    Lines of aligned plain text: classes by falling number of training images, then the groups at
    both levels, then the totals; numbers in percent, "-" for none.
  """
  # Equal frequencies keep the order of the classes.
  classes = sorted(result["per_class"], key=lambda entry: -entry["train_images"])
  rows = [
    (
      entry["name"],
      f"{entry['train_images']:,}",
      entry["image_group"],
      entry["pixel_group"],
      _number(entry["IoU"]),
      _number(entry["accuracy"]),
    )
    for entry in classes
  ]
  header = ("class", "train images", "image level", "pixel level", "IoU", "accuracy")
  lines = _aligned([header, *rows], left=(0, 2, 3))
  special = not_plain(result)
  note = ["", f"Evaluated with {special}"] if special else []
  return "\n".join([*lines, "", *_group_lines(result), "", *_total_lines(result), *note])


def _group_lines(result: dict[str, Any]) -> list[str]:
  """One line a level: mIoU of each group and the number of its classes."""
  rows = [("mIoU", *metrics.GROUP_NAMES)]
  for level, key in (("image_level", "image_group"), ("pixel_level", "pixel_group")):
    sizes = {name: 0 for name in metrics.GROUP_NAMES}
    for entry in result["per_class"]:
      sizes[entry[key]] += 1
    cells = (f"{_number(result[level][name])} ({sizes[name]})" for name in metrics.GROUP_NAMES)
    rows.append((level.replace("_", " ") + " (classes)", *cells))
  return _aligned(rows, left=(0,))


def _total_lines(result: dict[str, Any]) -> list[str]:
  return _aligned([TOTALS, [_number(result[name]) for name in TOTALS]], left=())


def _number(percent: float | None) -> str:
  return "-" if percent is None else f"{percent:.2f}"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
  """Pads the cells of each column to one width; `left` are the columns flush left."""
  rows = [[_shortened(cell) for cell in row] for row in rows]
  widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = []
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
      padding = " " * (width - _width(cell))
      cells.append(cell + padding if index in left else padding + cell)
    lines.append("  ".join(cells).rstrip())
  return lines


def _width(text: str) -> int:
  """Terminal columns of a text: East Asian wide characters take two, combining marks none."""
  return sum(
    0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
    for char in text
  )


def _shortened(text: str) -> str:
  """Cuts a text that is wider than _NAME_WIDTH."""
  if _width(text) <= _NAME_WIDTH:
    return text
  while _width(text) > _NAME_WIDTH - 1:
    text = text[:-1]
  return text + "…"
