"""From class scores to label maps of any size, in bounded memory and with few compilations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# (first class, number of classes) -> their scores [h, w, number].
ScoreBlocks = Callable[[jax.Array, int], jax.Array]
Taps = tuple[jax.Array, jax.Array]

# Scores that are held at a time: 64 Mi float32 values, 256 MiB.
_BLOCK_VALUES = 1 << 26


def bilinear_taps(in_size: int, out_size: int, padded_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Where every output row (or column) samples: half-pixel centres, edges clamped.

  Args:
    in_size: rows of the input.
    out_size: rows of the output.
    padded_size: at least out_size; the rest repeats the last row.

  Returns:
    (low int32 [padded_size], weight float32 [padded_size]): the value is
    (1 - weight) * x[low] + weight * x[min(low + 1, in_size - 1)].
  """
  position = (np.arange(padded_size) + 0.5) * (in_size / out_size) - 0.5
  position = np.clip(position, 0.0, in_size - 1.0)
  low = np.floor(position)
  return low.astype(np.int32), (position - low).astype(np.float32)


def _blend(x: jax.Array, low: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
  """Samples one image along one axis: [..., in, ...] -> [..., len(low), ...]."""
  high = jnp.minimum(low + 1, x.shape[axis] - 1)
  shape = [1] * x.ndim
  shape[axis] = -1
  weight = weight.reshape(shape)
  return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def resize(scores: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
  """Resizes the scores of one image bilinearly.

  Args:
    scores: [h, w, C].
    rows: `bilinear_taps` of the rows, ([H], [H]).
    columns: `bilinear_taps` of the columns, ([W], [W]).

  Returns:
    [H, W, C].
  """
  return _blend(_blend(scores, *rows, 0), *columns, 1)


def classes_per_block(num_classes: int, num_pixels: int) -> int:
  """How many classes of one image are scored at a time, at least 1."""
  return max(1, min(num_classes, _BLOCK_VALUES // num_pixels))


def images_per_block(num_classes: int, num_pixels: int) -> int:
  """How many images are scored at a time, at least 1."""
  return max(1, _BLOCK_VALUES // (num_pixels * num_classes))


def argmax(
  score_blocks: ScoreBlocks,
  num_classes: int,
  num_pixels: int,
  taps: tuple[Taps, Taps] | None = None,
) -> jax.Array:
  """The class with the largest score at every pixel, without ever holding all classes' scores.

  Args:
    score_blocks: gives the scores of a block of classes.
    num_classes: C.
    num_pixels: of the input or of the output, whichever are more.
    taps: `bilinear_taps` of the output's rows and columns; None keeps the input's size.

  Returns:
    uint16 [H, W]; the first of several classes with equal scores.
  """
  count = classes_per_block(num_classes, num_pixels)

  def block(start: jax.Array | int) -> jax.Array:
    scores = score_blocks(start, count)
    return scores if taps is None else resize(scores, *taps)

  if count == num_classes:
    return jnp.argmax(block(0), axis=-1).astype(jnp.uint16)

  def body(i, carry):
    best, label = carry
    start = jnp.minimum(i * count, num_classes - count)  # the last block overlaps
    scores = block(start)
    top = scores.max(-1)
    winner = (start + jnp.argmax(scores, axis=-1)).astype(jnp.uint16)
    return jnp.maximum(best, top), jnp.where(top > best, winner, label)

  first = block(0)
  carry = first.max(-1), jnp.argmax(first, axis=-1).astype(jnp.uint16)
  return jax.lax.fori_loop(1, -(-num_classes // count), body, carry)[1]
