"""Multi-scale deformable attention in plain XLA, forward and backward.

A sampled point is the weighted sum of four rows of D values: the corners of the pixel square
around it. With K = 4 * levels * points corners for each query and head,

  forward              output[q] = sum_k weight[q, k] * value[index[q, k]]
  gradient of weight   dot[q, k] = <cotangent[q], value[index[q, k]]>
  gradient of value    value[index[q, k]] += weight[q, k] * cotangent[q]

and the chain rule leads from the weights of the corners back to locations and attention weights.
One gather and one product would hold all corner rows at once (2 million, 264 MB, for one image at
512 x 512). What makes this fast instead, on a CPU:

- Sums over K and over slices of D are unrolled in Python, so that XLA fuses gathers,
  multiplications and additions into one loop without that array.
- All three run over blocks of queries whose corner rows fit the cache. The loop is also a fence:
  fused with a reshape of the output or with the arithmetic of the indices (an optimization barrier
  does not prevent it), the inner loop over D is no longer one of contiguous rows.
- The dot product stays `LANES` partial sums until its end: the compiler may not reorder a sum of
  floats, so that a plain one does not vectorise.

The batch is a batching dimension of every gather and scatter, and blocks cut the queries only: with
a sharded batch axis, each device works on its own images.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kernels.ms_deform_attn.corners import corners

SpatialShapes = tuple[tuple[int, int], ...]

# Partial sums of a dot product: float32 in a 256-bit vector register.
LANES = 8
# Size of the corner rows of one image's block of queries, which the scatter writes and reads again.
BLOCK_BYTES = 3 * 2**20
# The indices of `corners` leave nothing to check.
_VALID = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


def forward(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
) -> jax.Array:
  """Computes the output `[B, Q, H * D]`; arguments as of `ms_deform_attn`."""
  batch, queries, heads = attention_weights.shape[:3]
  rows = _rows(value)
  weight, index = _corners(spatial_shapes, sampling_locations, attention_weights, rows.dtype)

  def block_output(index, weight):
    return sum(weight[..., k, None] * _take(rows, index[..., k]) for k in range(index.shape[-1]))

  dim = value.shape[-1]
  output = _map_blocks(block_output, (index, weight), dim, _block(queries, heads, index, rows))
  return output.reshape(batch, queries, heads * dim).astype(value.dtype)


def backward(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the gradients by value, locations and weights, in their dtypes.

  Args:
    value: array of `ms_deform_attn`, like the next three.
    spatial_shapes: likewise.
    sampling_locations: likewise.
    attention_weights: likewise.
    cotangent: `[B, Q, H * D]`, of the output.

  Returns:
    Arrays of the shapes of `value`, `sampling_locations` and `attention_weights`.
  """
  batch, queries, heads = attention_weights.shape[:3]
  rows = _rows(value)
  cotangent = cotangent.astype(rows.dtype).reshape(batch, queries, heads, -1)

  def corners_of(locations, weights):
    return _corners(spatial_shapes, locations, weights, rows.dtype)

  weight, pull, index = jax.vjp(corners_of, sampling_locations, attention_weights, has_aux=True)
  block = _block(queries, heads, index, rows)
  block_dots = functools.partial(_dot_rows, rows)
  dots = _map_blocks(block_dots, (index, cotangent), index.shape[-1], block)
  gradient = _scatter_rows(rows, index, weight, cotangent, block)
  return gradient.reshape(value.shape).astype(value.dtype), *pull(dots)


def _corners(
  spatial_shapes: SpatialShapes, locations: jax.Array, weights: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """Returns weight and row in `_rows` of each corner of each point, both `[B, Q, H, K]`."""
  batch, queries, heads, _, points, _ = locations.shape
  locations = locations.astype(dtype).reshape(batch, queries, heads, -1, 2)
  weights = weights.astype(dtype).reshape(locations.shape[:-1])
  height, width = np.repeat(np.asarray(spatial_shapes, np.int32).T, points, axis=1)  # [L * P]
  areas = [height * width for height, width in spatial_shapes]
  start = np.repeat(np.cumsum([0, *areas[:-1]], dtype=np.int32), points)
  weights, indices = corners(locations[..., 0], locations[..., 1], weights, height, width)
  index = (jnp.stack(indices, axis=3) + start) * heads  # [B, Q, H, 4, L * P]
  index += np.arange(heads, dtype=np.int32)[:, None, None]
  shape = (batch, queries, heads, -1)
  return jnp.stack(weights, axis=3).reshape(shape), index.reshape(shape)


def _rows(value: jax.Array) -> jax.Array:
  """Returns `[B, S, H, D]` as rows of each image to compute with, `[B, S * H, D]`."""
  value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
  return value.reshape(value.shape[0], -1, value.shape[-1])


def _take(rows: jax.Array, index: jax.Array) -> jax.Array:
  """Returns rows `[B, S * H, D]` at `[B, ...]` as `[B, ..., D]`."""
  return jax.vmap(lambda rows, index: rows.at[index].get(**_VALID))(rows, index)


def _dot_rows(rows: jax.Array, index: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Returns the dot product of each query's cotangent with each of its corners, `[B, Q, H, K]`."""
  dim = rows.shape[-1]
  lanes = math.gcd(dim, LANES)
  partial = sum(
    _take(rows[..., d : d + lanes], index) * cotangent[..., None, d : d + lanes]
    for d in range(0, dim, lanes)
  )  # [B, Q, H, K, lanes]
  return sum(partial[..., lane] for lane in range(lanes))


def _scatter_rows(rows, index, weight, cotangent, block: int) -> jax.Array:
  """Returns the sum of weight times cotangent at each index, of the shape of `rows`."""
  batch, _, dim = rows.shape
  add = jax.vmap(lambda rows, index, update: rows.at[index].add(update, **_VALID))

  def step(i, rows):
    part_index, part_weight, part = (_part(a, i, block) for a in (index, weight, cotangent))
    update = part_weight[..., None] * part[..., None, :]  # [B, block, H, K, D]
    return add(rows, part_index.reshape(batch, -1), update.reshape(batch, -1, dim))

  # Queries added to fill the last block have weight 0.
  index, weight, cotangent = (_fill(array, block) for array in (index, weight, cotangent))
  return jax.lax.fori_loop(0, index.shape[1] // block, step, jnp.zeros_like(rows))


def _map_blocks(
  function: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], dim: int, block: int
) -> jax.Array:
  """Applies `function` to blocks of queries of `[B, Q, H, ...]`; returns `[B, Q, H, dim]`."""
  queries = arrays[0].shape[1]
  arrays = tuple(_fill(array, block) for array in arrays)

  def step(i, output):
    part = function(*(_part(array, i, block) for array in arrays))
    return jax.lax.dynamic_update_slice_in_dim(output, part, i * block, axis=1)

  # Like an argument, so that inside a shard_map the loop starts from the shard's own zeros.
  output = jnp.zeros_like(arrays[-1], shape=(*arrays[-1].shape[:3], dim))
  return jax.lax.fori_loop(0, output.shape[1] // block, step, output)[:, :queries]


def _block(queries: int, heads: int, index: jax.Array, rows: jax.Array) -> int:
  """Returns how many queries make a block: blocks of almost equal size within `BLOCK_BYTES`."""
  of_query = heads * index.shape[-1] * rows.shape[-1] * rows.dtype.itemsize
  blocks = -(-queries * of_query // BLOCK_BYTES)
  return -(-queries // min(blocks, queries))


def _part(array: jax.Array, i: jax.Array, block: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(array, i * block, block, axis=1)


def _fill(array: jax.Array, block: int) -> jax.Array:
  """Appends zeros to axis 1 up to a multiple of `block`."""
  return jnp.pad(array, ((0, 0), (0, -array.shape[1] % block), (0, 0), (0, 0)))
