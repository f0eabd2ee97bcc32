"""Random points on masks: drawing them, sampling at them, choosing the most uncertain.

A target mask never exists as an image: its value at a point is the bilinear weight of the corners
whose label is the class, read from the label map.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Of the padding around a label map. No class has it, so the outside belongs to no mask.
_OUTSIDE = -2
# Logit of a probability that is 0 in float32, as is its softplus.
_NEVER = -1e4
# Elements in a sum of `_rank`.
_RANK_BLOCK = 32


class Points(NamedTuple):
  """Points in units of the whole map: the centre of pixel i lies at (i + 0.5) / width.

  Attributes:
    x: [..., K] float32.
    y: [..., K] float32. Apart from x, since XLA turns the joint array into copies and repeats.
  """

  x: jax.Array
  y: jax.Array


def draw(key: jax.Array, num_points: int) -> Points:
  """Points drawn uniformly from the unit square.

  One 32-bit word makes a point, 16 bits a coordinate, since drawing is a good part of the
  criterion's cost. 1 / 65,536 of the width is a hundredth of a pixel in an image of 655.

  Args:
    key: PRNG key.
    num_points: K.

  Returns:
    [K] points with coordinates inside (0, 1).
  """
  words = jax.random.bits(key, (num_points,), jnp.uint32)
  return Points(
    *((half.astype(jnp.float32) + 0.5) / 65536 for half in (words >> 16, words & 0xFFFF))
  )


def _corners(points: Points, height: int, width: int) -> tuple[jax.Array, ...]:
  """Where points lie between pixel centres, in a map with one pixel of padding on every side.

  Args:
    points: [K] points.
    height: rows of the map without its padding.
    width: columns of the map without its padding.

  Returns:
    (index, y, x), each [K]: index of the upper left corner in the flat padded map, int32, and the
    distance from it in pixels, in [0, 1]. Points further out get padding alone.
  """
  x, y = points.x * width - 0.5, points.y * height - 0.5
  column, row = jnp.clip(jnp.floor(x), -1, width - 1), jnp.clip(jnp.floor(y), -1, height - 1)
  index = (row.astype(jnp.int32) + 1) * (width + 2) + column.astype(jnp.int32) + 1
  return index, jnp.clip(y - row, 0, 1), jnp.clip(x - column, 0, 1)


def _interpolate(corner, row: int, y: jax.Array, x: jax.Array) -> jax.Array:
  """Bilinear mean of corner(offset), at distance (y, x) from the first; `row` apart in a column."""
  upper = (1 - x) * corner(0) + x * corner(1)
  lower = (1 - x) * corner(row) + x * corner(row + 1)
  return (1 - y) * upper + y * lower


def sample(maps: jax.Array, points: Points) -> jax.Array:
  """Bilinear values at points, zero outside (`grid_sample` with align_corners=False in torch).

  Args:
    maps: [H, W] or [H, W, C] float32.
    points: [K] points.

  Returns:
    [K] or [K, C] float32.
  """
  height, width, *channels = maps.shape
  index, y, x = _corners(points, height, width)  # [K]
  if channels:
    y, x = y[:, None], x[:, None]  # [K, 1]
  padded = jnp.pad(maps, [(1, 1), (1, 1)] + [(0, 0)] * len(channels))
  flat = padded.reshape(-1, *channels)  # [(H+2)(W+2), C]
  corner = lambda offset: flat.at[index + offset].get(mode="promise_in_bounds")  # noqa: E731
  return _interpolate(corner, width + 2, y, x)


def pad_labels(labels: jax.Array) -> jax.Array:
  """Label maps as `label_values` takes them, with one pixel of no class on every side.

  Args:
    labels: [B, H, W] integer class ids.

  Returns:
    [B, H+2, W+2] int32.
  """
  padding = [(0, 0), (1, 1), (1, 1)]
  return jnp.pad(labels.astype(jnp.int32), padding, constant_values=_OUTSIDE)


def label_values(
  padded: jax.Array, image: jax.Array, classes: jax.Array, points: Points
) -> jax.Array:
  """Values of binary class masks at points, sampled as `sample` does, without making the masks.

  Args:
    padded: [B, H+2, W+2] from `pad_labels`.
    image: int32 scalar, the image of the batch to read.
    classes: [] or [T] int32 class ids.
    points: [K] points.

  Returns:
    [K] or [K, T] float32 in [0, 1]: the bilinear weight of the corners with that class.
  """
  batch, height, width = padded.shape
  index, y, x = _corners(points, height - 2, width - 2)  # [K]
  flat = padded.reshape(batch, -1)
  column = (slice(None),) + (None,) * classes.ndim  # [K] -> [K, 1] for several classes

  def corner(offset):
    label = flat.at[image, index + offset].get(mode="promise_in_bounds")  # [K]
    return (label[column] == classes).astype(jnp.float32)  # [K, T]

  return _interpolate(corner, width, y[column], x[column])


def leave_out(
  padded: jax.Array,
  image: jax.Array,
  ignore_label: int,
  points: Points,
  logits: jax.Array,
  target_values: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Takes the points on ignored pixels out of costs and losses.

  They get a logit whose probability and softplus are 0, and no target, so that they add nothing to
  any sum over points. A point is left out where it touches an ignored pixel at all, as its value is
  not known then.

  Args:
    padded: [B, H+2, W+2] from `pad_labels`.
    image: int32 scalar, the image of the batch to read.
    ignore_label: label of the pixels without a class.
    points: [K] points.
    logits: [K, ...] mask logits at them.
    target_values: [K, ...] target masks at them.

  Returns:
    (logits, target_values, factor); the factor turns a mean over all points into one over those
    that are left, or into 0.
  """
  valid = label_values(padded, image, jnp.int32(ignore_label), points) == 0  # [K]
  factor = valid.size / jnp.maximum(jnp.sum(valid), 1)
  of_rank = lambda x: valid.reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
  logits = jnp.where(of_rank(logits), logits, _NEVER)
  return logits, jnp.where(of_rank(target_values), target_values, 0.0), factor


def most_uncertain(logits: jax.Array, num_points: int) -> jax.Array:
  """The points whose logits lie closest to 0, exactly, without sorting them.

  Of points that tie with the last one, those with the lowest indices are taken. Points whose logit
  is not a number come last.

  Args:
    logits: [P, K] float32 of P masks.
    num_points: how many to choose for each, 1 to K.

  Returns:
    [P, num_points] int32 indices into K, ascending.
  """
  num_masks, size = logits.shape
  # The bits of a non-negative float32, read as an integer, keep its order.
  bits = lax.bitcast_convert_type(jnp.abs(logits.astype(jnp.float32)), jnp.int32)
  threshold = kth_smallest(bits, num_points)
  below, ties = bits < threshold, bits == threshold
  position = lax.broadcasted_iota(jnp.int32, bits.shape, 1)
  room = num_points - jnp.sum(below, axis=1, keepdims=True, dtype=jnp.int32)
  last = kth_smallest(jnp.where(ties, position, size), room)
  chosen = below | (ties & (position <= last))
  # One row of slots after the other, each with a last slot for all that is not chosen. A scatter
  # into one axis is several times faster on CPU than one per row.
  slot = jnp.where(chosen, _rank(chosen), num_points)
  slot += jnp.arange(num_masks, dtype=jnp.int32)[:, None] * (num_points + 1)
  slots = jnp.zeros(num_masks * (num_points + 1), jnp.int32)
  slots = slots.at[slot.reshape(-1)].set(position.reshape(-1), mode="promise_in_bounds")
  return slots.reshape(num_masks, num_points + 1)[:, :num_points]


def kth_smallest(values: jax.Array, k: int | jax.Array) -> jax.Array:
  """The k-th smallest of each row of non-negative integers, found bit by bit from the top.

  Two bits a pass: a pass over the values costs the same for three thresholds as for one.

  Args:
    values: [P, K] int32, none negative.
    k: rank from 1, one number or [P, 1].

  Returns:
    [P, 1] int32.
  """

  def count_below(*thresholds):
    flags = [jnp.where(values < t, 1, 0) for t in thresholds]
    zeros = [jnp.int32(0)] * len(flags)
    counts = lax.reduce(flags, zeros, lambda a, b: [i + j for i, j in zip(a, b, strict=True)], (1,))
    return [count[:, None] for count in counts]

  def set_bits(i, known):
    shift = 28 - 2 * i
    counts = count_below(*(known | (digit << shift) for digit in (1, 2, 3)))
    digit = sum((count < k).astype(jnp.int32) for count in counts)
    return known | (digit << shift)

  # Bit 30 on its own, then 15 pairs of bits.
  top = jnp.where(count_below(jnp.int32(1 << 30))[0] < k, 1 << 30, 0)
  return lax.fori_loop(0, 15, set_bits, top)


def _rank(flags: jax.Array) -> jax.Array:
  """Number of set flags before each in its row [P, K], as products with triangular matrices.

  Several times faster than XLA's cumulative sum, and exact below 2^24.
  """
  num_rows, size = flags.shape
  block = _RANK_BLOCK
  groups = -(-size // block**2)
  ones = jnp.pad(flags.astype(jnp.float32), ((0, 0), (0, groups * block**2 - size)))
  ones = ones.reshape(num_rows, groups, block, block)

  def before(counts):
    strict = jnp.triu(jnp.ones((counts.shape[-1],) * 2, jnp.float32), 1)
    return jnp.matmul(counts, strict, precision=lax.Precision.HIGHEST)

  rows, columns = ones.sum(-1), ones.sum((-1, -2))
  rank = before(ones) + before(rows)[..., None] + before(columns)[..., None, None]
  return rank.reshape(num_rows, -1)[:, :size].astype(jnp.int32)
