"""Cubic resizes along one axis, as matrices, with the two kernels that torch has.

Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE TASSP 1981. Pixels are
cells with half-integer centres.
"""

import numpy as np

# Keys' parameter: of torch's bicubic resize, and of the same with anti-aliasing. jax.image.resize
# has -0.5 for both.
_A = -0.75
_ANTIALIASED_A = -0.5


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
  """Keys' kernel at distances t >= 0, in cells."""
  near = ((a + 2) * t - (a + 3)) * t**2 + 1
  far = a * (((t - 5) * t + 8) * t - 4)
  return np.where(t <= 1, near, np.where(t < 2, far, 0))


def matrix(size: int, out_size: int) -> np.ndarray:
  """Weights [out_size, size] of a resize without anti-aliasing; outside, the border repeats."""
  source = (np.arange(out_size) + 0.5) * size / out_size - 0.5
  first = np.floor(source).astype(int) - 1
  weights = np.zeros((out_size, size))
  for tap in range(4):
    cell = first + tap
    weight = _cubic(np.abs(source - cell), _A)
    np.add.at(weights, (np.arange(out_size), cell.clip(0, size - 1)), weight)
  return weights.astype(np.float32)


def antialiased_matrix(size: int, out_size: int) -> np.ndarray:
  """Weights [out_size, size] of a resize with anti-aliasing, float64.

  The kernel is as wide as an output cell where that is wider than an input cell. Nothing lies
  outside: the weights of the cells that are there are divided by their sum.
  """
  scale = size / out_size
  source = (np.arange(out_size)[:, None] + 0.5) * scale - 0.5
  weights = _cubic(np.abs(np.arange(size) - source) / max(scale, 1), _ANTIALIASED_A)
  return weights / weights.sum(axis=1, keepdims=True)
