"""Colours of classes, and label maps painted over their images."""

import colorsys

import numpy as np

# Fractional parts of their multiples fill a cube evenly (the R3 sequence), so that neighbouring
# classes, and any first n, have colours far apart: 1 / x, 1 / x^2, 1 / x^3 with x^4 = x + 1.
_STEPS = 1.2207440846057596 ** -np.arange(1, 4)
_HUE, _SATURATION, _VALUE = (0.0, 1.0), (0.45, 1.0), (0.5, 1.0)


def class_colors(num_classes: int) -> np.ndarray:
  """Returns a fixed colour of its own for every class, uint8 [C, 3] RGB."""
  low, high = np.transpose([_HUE, _SATURATION, _VALUE])
  hsv = low + (high - low) * (np.arange(1, num_classes + 1)[:, None] * _STEPS % 1)
  return np.round(255 * np.array([colorsys.hsv_to_rgb(*row) for row in hsv])).astype(np.uint8)


def overlay(
  image: np.ndarray, label: np.ndarray, colors: np.ndarray, opacity: float = 0.6
) -> np.ndarray:
  """Paints a label map over its image.

  Args:
    image: uint8 [H, W, 3].
    label: integers [H, W] below C.
    colors: uint8 [C, 3].
    opacity: opacity of the colours, 0 to 1.

  Returns:
    uint8 [H, W, 3].
  """
  # One table per channel: 256 image values x C classes, looked up instead of computed per pixel.
  values = np.arange(256)[:, None]
  tables = (1 - opacity) * values[..., None] + opacity * colors  # [256, C, 3]
  tables = np.round(tables).astype(np.uint8)
  result = np.empty_like(image)
  for channel in range(3):
    result[..., channel] = tables[image[..., channel], label, channel]
  return result
