"""Choosing the most uncertain points of masks, whose logits lie closest to 0."""

import jax
import jax.numpy as jnp
from jax import lax

from ltss_jax.losses import sampling
from ltss_jax.losses.points import Points

# Elements in a sum of `_rank`.
_RANK_BLOCK = 32


def choose(candidates: Points, logits: jax.Array, fresh: Points, num_points: int) -> Points:
  """The candidates whose logits lie closest to 0, and all fresh points.

  On TPUs they are in the order of their rows, as is best for `sampling`; elsewhere the chosen ones
  come first, in the order that they have.

  Args:
    candidates: [P, 3K] drawn points of P masks (with the default ratios, as below).
    logits: [P, 3K] float32 at them.
    fresh: [P, K/4] drawn points.
    num_points: how many candidates to choose for each mask, 3K/4.

  Returns:
    [P, K] points.
  """

  def in_place(candidates, logits, fresh):
    return join_points(candidates, most_uncertain(logits, num_points), fresh)

  def by_row(candidates, logits, fresh):
    return join_in_rows(candidates, most_uncertain_flags(logits, num_points), fresh, num_points)

  return lax.platform_dependent(candidates, logits, fresh, tpu=by_row, default=in_place)


def join_points(candidates: Points, chosen: jax.Array, fresh: Points) -> Points:
  """The chosen ones [P, 3K/4], by their indices, of candidates [P, 3K]; then all fresh points."""
  take = lambda x: jnp.take_along_axis(x, chosen, axis=1, mode="promise_in_bounds")  # noqa: E731
  return Points(*(jnp.concatenate([take(c), f], 1) for c, f in zip(candidates, fresh, strict=True)))


def join_in_rows(candidates: Points, chosen: jax.Array, fresh: Points, num_points: int) -> Points:
  """The `num_points` chosen ones of candidates, by flags [P, 3K], and all fresh ones, by row.

  One sort both packs and orders them: what is not chosen gets the largest key. It is that of a
  point, too, which then stands among them and is the same wherever it is taken from.
  """
  keys = jnp.where(chosen, sampling.row_keys(candidates), jnp.uint32(2**32 - 1))
  keys = jnp.concatenate([keys, sampling.row_keys(fresh)], axis=1)
  return sampling.points_of_keys(keys, num_points + fresh.x.shape[1])


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
  num_masks = logits.shape[0]
  chosen = most_uncertain_flags(logits, num_points)
  position = lax.broadcasted_iota(jnp.int32, chosen.shape, 1)
  # One row of slots after the other, each with a last slot for all that is not chosen. A scatter
  # into one axis is several times faster on CPU than one per row.
  slot = jnp.where(chosen, _rank(chosen), num_points)
  slot += jnp.arange(num_masks, dtype=jnp.int32)[:, None] * (num_points + 1)
  slots = jnp.zeros(num_masks * (num_points + 1), jnp.int32)
  slots = slots.at[slot.reshape(-1)].set(position.reshape(-1), mode="promise_in_bounds")
  return slots.reshape(num_masks, num_points + 1)[:, :num_points]


def most_uncertain_flags(logits: jax.Array, num_points: int) -> jax.Array:
  """`most_uncertain` as flags [P, K], of which `num_points` are set in each row."""
  # The bits of a non-negative float32, read as an integer, keep its order.
  bits = lax.bitcast_convert_type(jnp.abs(logits.astype(jnp.float32)), jnp.int32)
  threshold = kth_smallest(bits, num_points)
  below, ties = bits < threshold, bits == threshold
  position = lax.broadcasted_iota(jnp.int32, bits.shape, 1)
  room = num_points - jnp.sum(below, axis=1, keepdims=True, dtype=jnp.int32)
  last = kth_smallest(jnp.where(ties, position, logits.shape[1]), room)
  return below | (ties & (position <= last))


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
