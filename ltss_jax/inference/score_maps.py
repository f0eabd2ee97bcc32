"""From class scores to label maps of any size, in bounded memory and with few compilations."""

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax.architectures.architecture import ScoreBlocks

# What `interpolation_weights` gives for one axis, and for the rows and the columns of an output.
AxisWeights = tuple[jax.Array, jax.Array]
Interpolation = tuple[AxisWeights, AxisWeights]
# Scores of one image at some size, and how the output samples them (None: they have its size).
ScoreMap = tuple[ScoreBlocks, Interpolation | None]

# Scores that are held at a time: 64 Mi float32 values, 256 MiB.
_BLOCK_VALUES = 1 << 26


def interpolation_weights(
  in_size: int, out_size: int, padded_size: int, mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Where every output row (or column) samples: half-pixel centres, edges clamped.

  Args:
    in_size: rows of the input.
    out_size: rows of the output.
    padded_size: at least out_size; the rest repeats the last row.
    mirrored: whether the input is to be read from its end.

  Returns:
    (low int32 [padded_size], weight float32 [padded_size]): the value is
    (1 - weight) * x[low] + weight * x[min(low + 1, in_size - 1)].
  """
  position = (np.arange(padded_size) + 0.5) * (in_size / out_size) - 0.5
  position = np.clip(position, 0.0, in_size - 1.0)
  if mirrored:
    position = in_size - 1.0 - position
  low = np.floor(position)
  return low.astype(np.int32), (position - low).astype(np.float32)


def _blend(x: jax.Array, low: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
  """Samples one image along one axis: [..., in, ...] -> [..., len(low), ...]."""
  high = jnp.minimum(low + 1, x.shape[axis] - 1)
  shape = [1] * x.ndim
  shape[axis] = -1
  weight = weight.reshape(shape)
  before = (slice(None),) * axis
  # All samples lie inside; checking that takes time.
  low, high = (x.at[(*before, i)].get(mode="promise_in_bounds") for i in (low, high))
  return low * (1 - weight) + high * weight


def resize(scores: jax.Array, rows: AxisWeights, columns: AxisWeights) -> jax.Array:
  """Resizes the scores of one image bilinearly.

  Args:
    scores: [h, w, C].
    rows: `interpolation_weights` of the rows, ([H], [H]).
    columns: `interpolation_weights` of the columns, ([W], [W]).

  Returns:
    [H, W, C].
  """
  return _blend(_blend(scores, *rows, 0), *columns, 1)


def _resized(scores: jax.Array, interpolation: Interpolation | None) -> jax.Array:
  return scores if interpolation is None else resize(scores, *interpolation)


def classes_per_block(num_classes: int, num_pixels: int) -> int:
  """How many classes of one image are scored at a time, at least 1."""
  return max(1, min(num_classes, _BLOCK_VALUES // num_pixels))


def images_per_block(num_classes: int, num_pixels: int) -> int:
  """How many images are scored at a time, at least 1."""
  return max(1, _BLOCK_VALUES // (num_pixels * num_classes))


def reordered(score_blocks: ScoreBlocks, order: Sequence[int]) -> ScoreBlocks:
  """Score blocks whose class i is the class order[i] of the given ones."""
  order = jnp.asarray(order)

  def block(start: jax.Array | int, count: int) -> jax.Array:
    classes = jax.lax.dynamic_slice_in_dim(order, start, count)
    return jax.vmap(lambda c: score_blocks(c, 1)[..., 0], out_axes=-1)(classes)

  return block


def mean_block(maps: Sequence[ScoreMap], start: jax.Array | int, count: int) -> jax.Array:
  """Mean of several score maps of one image at the output's size.

  Args:
    maps: at least one.
    start: first class.
    count: number of classes.

  Returns:
    [H, W, count].
  """
  blocks = [(blocks(start, count), interpolation) for blocks, interpolation in maps]
  total = _add(_resized(*one) for one in blocks)
  return total / len(maps)


def argmax(
  score_blocks: ScoreBlocks,
  num_classes: int,
  num_pixels: int,
  interpolation: Interpolation | None = None,
) -> jax.Array:
  """The class with the largest score at every pixel, without ever holding all classes' scores.

  Args:
    score_blocks: function that gives the scores of a block of classes.
    num_classes: C.
    num_pixels: pixels of the input or of the output, whichever are more.
    interpolation: `interpolation_weights` of the output's rows and columns; None keeps the input's
      size.

  Returns:
    uint16 [H, W]; the first of several classes with equal scores.
  """
  return argmax_of_mean([(score_blocks, interpolation)], num_classes, num_pixels)


def argmax_of_mean(maps: Sequence[ScoreMap], num_classes: int, num_pixels: int) -> jax.Array:
  """The class with the largest mean score at every pixel, as `argmax`.

  Args:
    maps: score maps of one image, at least one; all give scores of the output's size.
    num_classes: C.
    num_pixels: pixels of the output or of the largest input, whichever are more.

  Returns:
    uint16 [H, W]; the first of several classes with equal scores.
  """
  # The inputs of all maps may stand in memory at the same time.
  count = classes_per_block(num_classes, num_pixels * len(maps))
  if count == num_classes:
    return _top_of_block(maps, 0, count)[1]

  def body(i, carry):
    best, label = carry
    start = jnp.minimum(i * count, num_classes - count)  # the last block overlaps
    top, winner = _top_of_block(maps, start, count)
    return jnp.maximum(best, top), jnp.where(top > best, winner, label)

  return jax.lax.fori_loop(1, -(-num_classes // count), body, _top_of_block(maps, 0, count))[1]


def _top_of_block(maps: Sequence[ScoreMap], start: jax.Array | int, count: int) -> Any:
  """(largest score [H, W], its class uint16 [H, W]) among `count` classes.

  CPUs make one row of the output after another, which stay in the cache: 5 times as fast as the
  whole block. Accelerators would wait for so many small steps.
  """
  blocks = [blocks(start, count) for blocks, _ in maps]
  interpolations = [interpolation for _, interpolation in maps]

  def whole(blocks, interpolations):
    return _top(_add(map(_resized, blocks, interpolations)))

  def by_rows(blocks, interpolations):
    height = len(blocks[0]) if interpolations[0] is None else len(interpolations[0][0][0])

    def row(y):
      pairs = zip(blocks, interpolations, strict=True)
      return _top(_add(_resized_row(*pair, y) for pair in pairs))

    return jax.lax.map(row, jnp.arange(height))

  top, winner = jax.lax.platform_dependent(blocks, interpolations, cpu=by_rows, default=whole)
  return top, (start + winner).astype(jnp.uint16)


def _add(arrays: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(operator.add, arrays)


def _resized_row(scores: jax.Array, interpolation: Interpolation | None, y: jax.Array) -> jax.Array:
  """Row y of `resize`: [h, w, C] -> [W, C]."""
  if interpolation is None:
    return scores[y]
  (low, weight), columns = interpolation
  last = len(scores) - 1
  rows = [
    scores.at[i].get(mode="promise_in_bounds") for i in (low[y], jnp.minimum(low[y] + 1, last))
  ]
  return _blend(rows[0] * (1 - weight[y]) + rows[1] * weight[y], *columns, 0)


def _top(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Maximum over the last axis and the first index that has it, as int32."""
  # Two reductions over numbers in float32, which XLA makes vector instructions of on CPUs; its
  # argmax takes 6 times as long. Without the barrier it would compute the scores twice.
  scores = jax.lax.optimization_barrier(scores)
  top = scores.max(-1)
  count = scores.shape[-1]
  candidates = jnp.where(scores == top[..., None], jnp.arange(count, dtype=jnp.float32), count)
  # A score that is not a number equals nothing; its pixel gets a class all the same.
  return top, jnp.minimum(candidates.min(-1), count - 1).astype(jnp.int32)
