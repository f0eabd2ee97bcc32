"""The worst and best images of a report: image, label, prediction and error side by side."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ltss_jax.report import run_figures
from ltss_jax.visualization import example_images, palette

_QUALITY = 85  # of the JPEGs
_RIGHT, _WRONG, _IGNORED = (225, 225, 225), (200, 30, 30), (40, 40, 40)
_MAX_LEGEND = 8


def entry(example: example_images.Example, class_names: Sequence[str]) -> dict[str, Any]:
  """What the template shows of an example.

  Args:
    example: validation image with its prediction.
    class_names: C names.

  Returns:
    "file_name", "miou" (percent), "panels": (title, source of an <img>), "size": (width, height),
    and "legend": (name, colour as "#rrggbb") of the classes with most pixels.
  """
  num_classes = len(class_names)
  label, prediction = (
    example_images.paint(example.image, labels, num_classes)
    for labels in (example.label, example.prediction)
  )
  return {
    "file_name": example.file_name,
    "miou": 100 * example.miou,
    "size": example.image.shape[1::-1],
    "panels": [
      ("image", _encode(example.image, "jpeg")),
      ("label", _encode(label, "jpeg")),
      ("prediction", _encode(prediction, "jpeg")),
      ("error", _encode(_errors(example, num_classes), "png")),
    ],
    "legend": _legend(example, class_names),
  }


def _errors(example: example_images.Example, num_classes: int) -> np.ndarray:
  """Wrong pixels red, right ones light, those of no class dark: uint8 [H, W, 3]."""
  wrong = example.label != example.prediction
  colors = np.array([_RIGHT, _WRONG, _IGNORED], np.uint8)
  return colors[np.where(example.label >= num_classes, 2, wrong.astype(int))]


def _legend(example: example_images.Example, class_names: Sequence[str]) -> list[tuple[str, str]]:
  num_classes = len(class_names)
  shown = np.concatenate([example.label.ravel(), example.prediction.ravel()])
  pixels = np.bincount(shown[shown < num_classes], minlength=num_classes)
  colors = palette.class_colors(num_classes)
  largest = np.argsort(-pixels, kind="stable")[:_MAX_LEGEND]
  return [(class_names[c], "#" + bytes(colors[c]).hex()) for c in largest if pixels[c]]


def _encode(image: np.ndarray, kind: str) -> str:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format=kind, quality=_QUALITY, optimize=True)
  return run_figures.data_uri(buffer.getvalue(), kind)
