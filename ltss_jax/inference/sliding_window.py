"""Any model over overlapping windows of its input, whose scores are averaged."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax.architectures.architecture import Architecture

# Length of an axis in pixels -> where the windows along it start, int32 [N], ascending from 0.
Starts = Callable[[int], np.ndarray]


def strided(window: int, stride: int) -> Starts:
  """Windows every `stride` pixels, the last one moved back to end at the border.

  Args:
    window: side in pixels; on an axis that is shorter, the window is as long as the axis.
    stride: distance of the windows in pixels, at most `window`.
  """

  def starts(side: int) -> np.ndarray:
    last = max(side - window, 0)
    return np.minimum(np.arange(-(-last // stride) + 1) * stride, last).astype(np.int32)

  return starts


def spread(window: int) -> Starts:
  """As few windows as cover an axis, evenly over it, as EoMT's release places them.

  Its formula, in its own floating point (Kerssies et al., CVPR 2025, public code), but for the last
  window: that one ends at the border. Rounding lets the release's end one pixel before it on some
  axes, as on one of 675 pixels with windows of 224, so that the last pixel is in none.

  Args:
    window: side in pixels; on an axis that is shorter, the window is as long as the axis.
  """

  def starts(side: int) -> np.ndarray:
    count = max(1, math.ceil(side / window))
    overlap = (count * window - side) / max(1, count - 1)
    inner = [int(i * (window - overlap)) for i in range(count - 1)]
    return np.array([*inner, max(side - window, 0)], np.int32)

  return starts


def window_corners(height: int, width: int, starts: Starts) -> np.ndarray:
  """Where windows start: every start of the rows with every one of the columns.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    starts: placement along each axis.

  Returns:
    int32 [N, 2], (top, left) of each window; the first is (0, 0).
  """
  grid = np.meshgrid(starts(height), starts(width), indexing="ij")
  return np.stack(grid, -1).reshape(-1, 2)  # [N, 2]


def over_windows(architecture: Architecture, window: int, starts: Starts) -> Architecture:
  """The architecture whose scores are the means over all windows that hold a pixel.

  Args:
    architecture: the model, which sees one window at a time.
    window: side in pixels; an image that is not larger is seen whole.
    starts: where windows of this side start along an axis; all of it is in a window.
  """

  def predict(params, stats, image):
    size = image.shape[1:3]
    corners = window_corners(*size, starts)
    if len(corners) == 1:  # it covers the image
      return architecture.predict(params, stats, image)
    height, width = (min(side, window) for side in size)

    def one(corner):
      rows = jax.lax.dynamic_slice_in_dim(image, corner[0], height, axis=1)
      crop = jax.lax.dynamic_slice_in_dim(rows, corner[1], width, axis=2)
      return architecture.predict(params, stats, crop)

    predictions = jax.lax.map(one, corners)  # [N, B, ...]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), predictions)  # [B, N, ...]

  def score_blocks(prediction, size):
    corners = window_corners(*size, starts)
    if len(corners) == 1:
      return architecture.score_blocks(prediction, size)
    height, width = (min(side, window) for side in size)
    times = np.zeros(size, np.float32)  # [H, W]
    for top, left in corners:
      times[top : top + height, left : left + width] += 1

    def of_window(i, start, count):
      part = jax.tree.map(lambda x: x[i], prediction)
      return architecture.score_blocks(part, (height, width))(start, count)

    def block(start, count):
      def add(i, total):
        corner = (*jnp.asarray(corners)[i], 0)
        scores = of_window(i, start, count)  # [h, w, count]
        scores += jax.lax.dynamic_slice(total, corner, scores.shape)
        return jax.lax.dynamic_update_slice(total, scores, corner)

      below, right = size[0] - height, size[1] - width
      total = jnp.pad(of_window(0, start, count), ((0, below), (0, right), (0, 0)))
      total = jax.lax.fori_loop(1, len(corners), add, total)  # [H, W, count]
      return total / times[..., None]

    return block

  return dataclasses.replace(architecture, predict=predict, score_blocks=score_blocks)


def any_size(architecture: Architecture) -> Architecture:
  """The architecture for images of any size; itself where it takes them already.

  One that takes squares alone sees windows of their side, `spread` over each axis. An axis that is
  shorter is padded at its end with 0, the mean colour, which is cut off the scores.

  Args:
    architecture: any model.
  """
  square = architecture.input_side
  if not square:
    return architecture
  windowed = over_windows(architecture, square, spread(square))

  def predict(params, stats, image):
    height, width = padded_size(architecture, image.shape[1:3])
    padding = (0, height - image.shape[1]), (0, width - image.shape[2])
    return windowed.predict(params, stats, jnp.pad(image, ((0, 0), *padding, (0, 0))))

  def score_blocks(prediction, size):
    padded = windowed.score_blocks(prediction, padded_size(architecture, size))
    return lambda start, count: padded(start, count)[: size[0], : size[1]]

  return dataclasses.replace(architecture, predict=predict, score_blocks=score_blocks, input_side=0)


def padded_size(architecture: Architecture, size: tuple[int, int]) -> tuple[int, int]:
  """(height, width) of the scores that `any_size` makes for an image, before it cuts them."""
  return tuple(max(side, architecture.input_side) for side in size)
