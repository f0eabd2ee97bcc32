"""Colour jitter as in SSD, with the semantics of Mask2Former's ColorAugSSDTransform.

It is a transform as `transforms.py` describes them, down to the rounding of each step.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

# Above the error of value * alpha + beta in float32, for results up to 512.
_FLOAT32_MARGIN = 2.0**-13


def _scale_table(alpha: float, beta: float) -> np.ndarray:
  """uint8 [256]: clip(value * alpha + beta, 0, 255), truncated, for each 8-bit value."""
  values = np.arange(256, dtype=np.float32) * np.float32(alpha) + np.float32(beta)
  return np.clip(values, 0, 255).astype(np.uint8)


def _scale(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
  """`_scale_table(alpha, beta)[image]`, by vectorised arithmetic wherever it gives the same bytes.

  A shift alone is a saturating sum of integers. Otherwise convertScaleAbs rounds where the table
  truncates, so that beta is half a unit less for it; where one of the 256 values comes too close to
  a rounding border for float32, the table is looked up, which takes more than twice as long.
  """
  table = _scale_table(alpha, beta)
  values = np.arange(256)
  shift = math.floor(beta)
  if alpha == 1.0 and np.array_equal(np.clip(values + shift, 0, 255), table):
    operation = cv2.add if shift >= 0 else cv2.subtract
    return operation(image, (abs(shift),) * 4)
  shifted = beta - 0.5 + 2 * _FLOAT32_MARGIN
  exact = values * float(np.float32(alpha)) + shifted
  rounded = np.rint(exact)
  safe = np.abs(np.abs(exact - rounded) - 0.5).min() > _FLOAT32_MARGIN and exact[0] > -0.5
  if safe and np.array_equal(np.minimum(rounded, 255), table):
    return cv2.convertScaleAbs(image, alpha=alpha, beta=shifted)
  return cv2.LUT(image, table)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
  """SSD colour jitter; every operation applies with probability 1/2 and truncates to uint8.

  Brightness first; then contrast before or after (fair coin) saturation and hue, which work on
  OpenCV's 8-bit HSV (hue an integer modulo 180). An operation maps each 8-bit value independently,
  so a table of 256 entries gives the same bytes as the arithmetic on all pixels, and shows whether
  a faster operation does.

  Attributes:
    exact: saturation and hue each convert to HSV and back, as in the release. False: together; in
      photographs values differ by less than 0.5 on average, and by some units at most.
    brightness: largest shift, in 8-bit values.
    contrast, saturation: range of the factor.
    hue: largest shift, in units of 2 degrees.
  """

  exact: bool
  brightness: float = 32.0
  contrast: tuple[float, float] = (0.5, 1.5)
  saturation: tuple[float, float] = (0.5, 1.5)
  hue: int = 18

  def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Returns the example with other colours."""
    image = self._brightness(example["image"], rng)
    if rng.integers(2):
      image = self._contrast(image, rng)
      image = self._saturation_and_hue(image, rng)
    else:
      image = self._saturation_and_hue(image, rng)
      image = self._contrast(image, rng)
    return {**example, "image": image}

  def _brightness(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not rng.integers(2):
      return image
    return _scale(image, 1.0, rng.uniform(-self.brightness, self.brightness))

  def _contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not rng.integers(2):
      return image
    return _scale(image, rng.uniform(*self.contrast), 0.0)

  def _saturation_and_hue(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tables = {}  # of the channels of HSV
    if rng.integers(2):
      tables[1] = _scale_table(rng.uniform(*self.saturation), 0.0)
    if rng.integers(2):
      shift = int(rng.integers(-self.hue, self.hue, endpoint=True))
      tables[0] = ((np.arange(256) + shift) % 180).astype(np.uint8)
    if not self.exact:
      return _map_hsv(image, tables)
    for channel, table in tables.items():
      image = _map_hsv(image, {channel: table})
    return image


def _map_hsv(image: np.ndarray, tables: dict[int, np.ndarray]) -> np.ndarray:
  """Looks up some channels of an RGB image in HSV, each in its table [256]."""
  if not tables:
    return image
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  for channel, table in tables.items():
    # One channel alone: half the time of a table for all three.
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
  return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
