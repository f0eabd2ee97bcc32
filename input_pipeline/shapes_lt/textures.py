"""Texture patterns: where a surface shows its dark (0) and where its light tone (1)."""

from collections.abc import Callable

import cv2
import numpy as np

Pattern = Callable[[np.random.Generator, int, int], np.ndarray]


def smooth_noise(
  rng: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0
) -> np.ndarray:
  """Noise of zero mean and about unit deviation.

  Args:
    rng: randomness.
    height: rows in px.
    width: columns in px.
    cell: distance between the random values along y, in px.
    stretch: distance along x over distance along y.

  Returns:
    float32 [H, W].
  """
  rows = max(2, round(height / cell) + 1)
  columns = max(2, round(width / (cell * stretch)) + 1)
  grid = rng.standard_normal((rows, columns), dtype=np.float32)
  return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)  # [H, W]


def _to_unit(field: np.ndarray, gain: float = 0.28) -> np.ndarray:
  """Maps a field of unit deviation to [0, 1]."""
  return np.clip(field * np.float32(gain) + np.float32(0.5), 0, 1)


def _axes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  y = np.arange(height, dtype=np.float32)[:, None]  # [H, 1]
  x = np.arange(width, dtype=np.float32)[None, :]  # [1, W]
  return y, x


def _along(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Position in px along a random direction, [H, W]."""
  y, x = _axes(height, width)
  angle = rng.uniform(0, np.pi)
  return (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Soft billows, wider than high."""
  field = smooth_noise(rng, height, width, 34, 1.8) + 0.5 * smooth_noise(rng, height, width, 13, 2)
  return _to_unit(field + 0.2 * smooth_noise(rng, height, width, 5, 1.5), 0.4)


def blades(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Fine upright strokes."""
  fine = smooth_noise(rng, height, width, rng.uniform(5, 8), 0.25)
  return _to_unit(0.9 * fine + 0.5 * smooth_noise(rng, height, width, 24))


def waves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Wavy horizontal lines."""
  y, _ = _axes(height, width)
  period = rng.uniform(6, 12)
  phase = y * np.float32(2 * np.pi / period) + 1.6 * smooth_noise(rng, height, width, 11, 2.5)
  return _to_unit(1.2 * np.sin(phase) + 0.5 * smooth_noise(rng, height, width, 3, 4))


def leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Clumps with hard borders."""
  clumps = np.tanh(2 * smooth_noise(rng, height, width, rng.uniform(6, 9)))
  return _to_unit(clumps + 0.6 * smooth_noise(rng, height, width, 3))


def bricks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Bricks of varied tones in mortar."""
  brick_height = rng.uniform(8, 13)
  brick_width = brick_height * rng.uniform(1.9, 2.4)
  y, x = _axes(height, width)
  y, x = y + rng.uniform(0, 20), x + rng.uniform(0, 20)
  row = np.floor(y / brick_height).astype(np.int32)  # [H, 1]
  shifted = x / np.float32(brick_width) + 0.5 * (row % 2)  # [H, W]
  column = np.floor(shifted).astype(np.int32)
  tones = rng.uniform(0.45, 1.0, (row.max() + 1, column.max() + 1)).astype(np.float32)
  mortar = (y / brick_height - row < 0.17) | (shifted - column < 0.09)
  field = np.where(mortar, np.float32(0), tones[row, column])
  return np.clip(field + 0.07 * smooth_noise(rng, height, width, 2), 0, 1)


def dunes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Wide soft ridges of fine grains."""
  y, _ = _axes(height, width)
  phase = y * np.float32(2 * np.pi / rng.uniform(14, 24)) + 2 * smooth_noise(rng, height, width, 30)
  grains = rng.standard_normal((height, width), dtype=np.float32)
  return _to_unit(0.8 * np.sin(phase) + 0.8 * grains)


def planks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Upright boards with grain."""
  board = rng.uniform(13, 20)
  _, x = _axes(height, width)
  x = x + rng.uniform(0, 20)
  index = np.floor(x / board).astype(np.int32)  # [1, W]
  tones = rng.uniform(-0.8, 0.8, index.max() + 1).astype(np.float32)
  grain = smooth_noise(rng, height, width, 26, 0.07)
  return np.where(x / board - index < 0.1, np.float32(0), _to_unit(grain + tones[index]))


def stones(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Round light stones in dark gaps."""
  spacing = rng.uniform(6, 9)
  seeds = np.full((height, width), 255, np.uint8)
  count = max(1, int(height * width / spacing**2))
  seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
  distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)  # [H, W]
  domes = 1 - distance / np.float32(0.75 * spacing)
  return np.clip(domes + 0.15 * smooth_noise(rng, height, width, 5), 0, 1)


def plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Almost one tone."""
  return _to_unit(smooth_noise(rng, height, width, 14), 0.1)


def stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Straight stripes in a random direction."""
  wave = np.sin(_along(rng, height, width) * np.float32(2 * np.pi / rng.uniform(7, 13)))
  return _to_unit(np.tanh(4 * wave), 0.45)


def dots(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Light dots on a square grid."""
  period = np.float32(2 * np.pi / rng.uniform(8, 12))
  y, x = _axes(height, width)
  field = np.cos(x * period + rng.uniform(0, 6)) + np.cos(y * period + rng.uniform(0, 6))
  return _to_unit(np.tanh(4 * (field - 0.7)), 0.45).astype(np.float32)


def checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """A chessboard."""
  period = np.float32(2 * np.pi / rng.uniform(12, 18))
  y, x = _axes(height, width)
  field = np.sin(x * period + rng.uniform(0, 6)) * np.sin(y * period + rng.uniform(0, 6))
  return _to_unit(np.tanh(8 * field), 0.45).astype(np.float32)


def weave(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """A fine grid of threads."""
  period = np.float32(2 * np.pi / rng.uniform(4, 6))
  y, x = _axes(height, width)
  return _to_unit(np.sin(x * period) + np.sin(y * period), 0.25).astype(np.float32)


def speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Small irregular light spots."""
  return _to_unit(np.tanh(3 * (smooth_noise(rng, height, width, 2.5) - 0.6)), 0.45)


def marble(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Bent veins."""
  phase = _along(rng, height, width) * np.float32(2 * np.pi / rng.uniform(14, 22))
  return _to_unit(np.sin(phase + 2 * smooth_noise(rng, height, width, 12)), 0.45)


def rings(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Rings around the middle."""
  y, x = _axes(height, width)
  radius = np.hypot(y - height / 2, x - width / 2)
  return _to_unit(np.sin(radius * np.float32(2 * np.pi / rng.uniform(7, 12)))).astype(np.float32)


TEXTURES: dict[str, Pattern] = {
  pattern.__name__: pattern
  for pattern in (
    *(clouds, blades, waves, leaves, bricks, dunes, planks, stones),
    *(plain, stripes, dots, checks, weave, speckle, marble, rings),
  )
}
