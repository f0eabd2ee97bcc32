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

SpatialShapes = tuple[tuple[int, int], ...]

# Partial sums of a dot product: float32 in a 256-bit vector register.
LANES = 8
# Size of the corner rows of one image's block of queries, which the scatter writes and reads again.
BLOCK_BYTES = 3 * 2**20
# `_corner_index` leaves nothing to check.
_VALID = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def ms_deform_attn_xla(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
) -> jax.Array:
  """Computes `ms_deform_attn`; arguments as there."""
  batch, queries, heads = attention_weights.shape[:3]
  compute = jnp.promote_types(value.dtype, jnp.float32)
  locations = sampling_locations.astype(compute)
  index = _corner_index(spatial_shapes, locations)
  weight = _corner_weight(spatial_shapes, locations, attention_weights.astype(compute))
  rows = _rows(value.astype(compute))

  def block_output(index, weight):
    return sum(weight[..., k, None] * _take(rows, index[..., k]) for k in range(index.shape[-1]))

  dim = value.shape[-1]
  output = _map_blocks(block_output, (index, weight), dim, _block(queries, heads, index, rows))
  return output.reshape(batch, queries, heads * dim).astype(value.dtype)


def _forward(value, spatial_shapes, sampling_locations, attention_weights):
  output = ms_deform_attn_xla(value, spatial_shapes, sampling_locations, attention_weights)
  return output, (value, sampling_locations, attention_weights)


def _backward(spatial_shapes, residuals, cotangent):
  value, sampling_locations, attention_weights = residuals
  batch, queries, heads = attention_weights.shape[:3]
  compute = jnp.promote_types(value.dtype, jnp.float32)
  locations = sampling_locations.astype(compute)
  cotangent = cotangent.astype(compute).reshape(batch, queries, heads, -1)
  index = _corner_index(spatial_shapes, locations)
  weight, pull = jax.vjp(
    functools.partial(_corner_weight, spatial_shapes), locations, attention_weights.astype(compute)
  )
  rows = _rows(value.astype(compute))
  block = _block(queries, heads, index, rows)
  block_dots = functools.partial(_dot_rows, rows)
  dots = _map_blocks(block_dots, (index, cotangent), index.shape[-1], block)
  location_gradient, attention_gradient = pull(dots)
  return (
    _scatter_rows(rows, index, weight, cotangent, block).reshape(value.shape).astype(value.dtype),
    location_gradient.astype(sampling_locations.dtype),
    attention_gradient.astype(attention_weights.dtype),
  )


ms_deform_attn_xla.defvjp(_forward, _backward)


def _pixels(spatial_shapes: SpatialShapes, locations: jax.Array):
  """Returns x and y in pixels `[B, Q, H, L * P]` and their levels' width and height `[L * P]`."""
  points = locations.shape[-2]
  height, width = np.repeat(np.asarray(spatial_shapes, locations.dtype).T, points, axis=1)
  locations = locations.reshape(*locations.shape[:3], -1, 2)
  return locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5, width, height


def _corner_weight(
  spatial_shapes: SpatialShapes, locations: jax.Array, attention_weights: jax.Array
) -> jax.Array:
  """Returns bilinear times attention weight of each corner, `[B, Q, H, K]`; 0 off the map."""
  x, y, width, height = _pixels(spatial_shapes, locations)
  attention_weights = attention_weights.reshape(x.shape)

  def pair(position, size):
    low = jnp.floor(position)
    part = position - low
    low_inside = (low >= 0) & (low < size)
    high_inside = (low >= -1) & (low < size - 1)
    return jnp.where(low_inside, 1 - part, 0), jnp.where(high_inside, part, 0)

  left, right = pair(x, width)
  top, bottom = (attention_weights * weight for weight in pair(y, height))
  weight = jnp.stack([top * left, top * right, bottom * left, bottom * right], axis=3)
  return weight.reshape(*x.shape[:3], -1)


def _corner_index(spatial_shapes: SpatialShapes, locations: jax.Array) -> jax.Array:
  """Returns the row of each corner in `_rows`, `[B, Q, H, K]`; any valid one for those off the map.

  Order as in `_corner_weight`.
  """
  x, y, width, height = _pixels(spatial_shapes, locations)
  # Clipped as floats: what lies far outside does not fit an integer.
  column = jnp.clip(jnp.floor(x), -1, width).astype(jnp.int32)
  row = jnp.clip(jnp.floor(y), -1, height).astype(jnp.int32)
  areas = [height * width for height, width in spatial_shapes]
  points = locations.shape[-2]
  start = np.repeat(np.cumsum(areas, dtype=np.int32) - np.asarray(areas, np.int32), points)
  stride = width.astype(np.int32)
  corner = np.stack([0 * stride, 0 * stride + 1, stride, stride + 1])  # [4, L * P]
  position = (start + row * stride + column)[:, :, :, None] + corner  # [B, Q, H, 4, L * P]
  heads = locations.shape[2]
  head = np.arange(heads, dtype=np.int32)[:, None, None]
  index = jnp.clip(position, 0, sum(areas) - 1) * heads + head
  return index.reshape(*x.shape[:3], -1)


def _rows(value: jax.Array) -> jax.Array:
  """Returns `[B, S, H, D]` as one list of rows for each image, `[B, S * H, D]`."""
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
