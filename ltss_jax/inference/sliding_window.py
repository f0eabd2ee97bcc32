"""Any model over overlapping windows of its input, whose scores are averaged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax.architectures.architecture import Architecture, ScoreBlocks


def window_corners(height: int, width: int, window: int, stride: int) -> np.ndarray:
  """Where windows start: every `stride` pixels, the last ones moved back to end at the border.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    window: side in pixels; on an axis that is shorter, the window is as long as the axis.
    stride: distance of the windows in pixels, at most `window`.

  Returns:
    int32 [N, 2], (top, left) of each window; the first is (0, 0).
  """

  def starts(side: int) -> np.ndarray:
    last = max(side - window, 0)
    return np.minimum(np.arange(-(-last // stride) + 1) * stride, last)

  grid = np.meshgrid(starts(height), starts(width), indexing="ij")
  return np.stack(grid, -1).reshape(-1, 2).astype(np.int32)  # [N, 2]


def over_windows(architecture: Architecture, window: int, stride: int) -> Architecture:
  """The architecture whose scores are the means over all windows that hold a pixel.

  Args:
    architecture: the model, which sees one window at a time.
    window: side in pixels; an image that is not larger is seen whole.
    stride: pixels from one window to the next, at most `window`.
  """

  def predict(params, stats, image):
    size = image.shape[1:3]
    height, width = (min(side, window) for side in size)

    def one(corner):
      shape = (image.shape[0], height, width, image.shape[3])
      crop = jax.lax.dynamic_slice(image, (0, corner[0], corner[1], 0), shape)
      return architecture.predict(params, stats, crop)

    predictions = jax.lax.map(one, window_corners(*size, window, stride))  # [N, B, ...]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), predictions)  # [B, N, ...]

  def score_blocks(prediction, size):
    corners = window_corners(*size, window, stride)
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

    return _single(of_window) if len(corners) == 1 else block

  return dataclasses.replace(architecture, predict=predict, score_blocks=score_blocks)


def _single(of_window) -> ScoreBlocks:
  """The scores of the only window, which covers the image."""
  return lambda start, count: of_window(0, start, count)
