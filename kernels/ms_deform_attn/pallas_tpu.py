"""Multi-scale deformable attention for TPUs: hat functions and matrix products, no gather.

A TensorCore cannot gather. But bilinear sampling is linear in the map, and its weights are products
of two hat functions: with hat(t) = max(0, 1 - |t|), query q takes from pixel (i, j) of a level

  A[q, i, j] = sum_p weight[q, p] * hat(y[q, p] - i) * hat(x[q, p] - j)

(points p, positions in pixels; off the map there are no pixels, so points there count nothing by
themselves). The output is the matrix product of A and the map, for each head by itself. A is never
stored: it is made tile by tile on the vector unit and consumed by the matrix unit. How maps and
points are laid out for that is in `tpu_layout`.

  a tile     some whole rows of a level, `TILE` positions at most; rows are filled to a multiple of
             8 columns, the height of a register
  a block    `QUERY_BLOCK` queries, which lie along the lanes: A is [positions, queries]. A table of
             hat(x - j), [columns, queries], is made once for a block and level; each row of a tile
             multiplies it by its hat(y - i), one row of queries, for each point
  skipping   queries stand in the order of their pixels and look around themselves, so that a block
             touches few rows of each level. The tiles from the first to the last row that any of
             its points touches, a range found beforehand for each block, head and level, are
             visited, and no others
  memory     a grid step is (image, head, block). The maps of one head stay in VMEM for all its
             blocks, twice because those of the next head arrive meanwhile. Maps that do not fit in
             `RESIDENT_BYTES` are cut into bands of rows, which several calls share, and the results
             are added

Backward, from the cotangent g [D, queries] of a block and head:

  dA = map @ g                           [positions, queries], on the matrix unit
  gradient of the map   += g @ A^T       with A made again
  gradient of a weight   = sum_ij hat(y - i) hat(x - j) dA[i, j]
  gradient of x          = weight * sum_ij hat(y - i) slope(x - j) dA[i, j], that of y likewise

Cost model, with n = positions of visited tiles * queries of their blocks and P points: forward 2 P
n multiplications and additions on the vector unit (1,024 lanes, 4 operations in a bundle), which
bound the kernel, and 2 D n on the matrix unit, which is a quarter full: D = 32 rows of the map
stream through it. Backward 6 P n and 4 D n. For each block and level, the table of hats takes 4 P
operations for each column and query. Larger tiles and blocks hide the latency of the matrix unit
better and skip less: 256 x 256 was the best among 128, 256 and 512 when each tile is charged 100
cycles of latency; docs/log.md has the figures. At 512 x 512 (5,376 queries), the points of a
freshly initialised layer touch 29 % of all tiles.

float32 values take the exact mode of the matrix unit, about twice the time. With bfloat16 values, A
is rounded to bfloat16 before its product, which is accumulated in float32; gradients of locations
and weights stay float32. A value that is not finite spreads to all queries whose blocks visit its
tile (0 * inf), where a gather would spread it only to those that sample it.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from kernels.ms_deform_attn import tpu_layout as layout

# Of the maps and their gradients, buffers included. The smallest VMEM, a TPU v4's, has 16 MiB.
RESIDENT_BYTES = 12 * 2**20


def forward(
  value: jax.Array,
  spatial_shapes: layout.SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Computes the output `[B, Q, H * D]`; arguments as of `ms_deform_attn`."""
  samples = layout.Samples(value, spatial_shapes, sampling_locations, attention_weights)
  calls = layout.deal(
    spatial_shapes, lambda k: layout.vmem_bytes(samples.dim, k, value.dtype), RESIDENT_BYTES
  )
  # Sums of several calls are rounded once, at the end.
  dtype = value.dtype if len(calls) == 1 else samples.dtype

  def call(bands: Sequence[layout.Band]) -> jax.Array:
    maps = [layout.tile(value, spatial_shapes, band).swapaxes(-1, -2) for band in bands]
    return pl.pallas_call(
      functools.partial(_forward_kernel, bands=bands, points=samples.points),
      in_specs=[samples.range_spec(bands), *samples.specs, *map(layout.resident, maps)],
      out_specs=samples.block_of(samples.dim),
      out_shape=samples.array_of(samples.dim, dtype),
      scratch_shapes=[samples.hats(bands)],
      interpret=interpret,
      name="ms_deform_attn_forward",
      **samples.grid,
    )(samples.ranges(bands), *samples.tables, *maps)  # [B, H, D, Q']

  output = sum(call(bands) for bands in calls)[..., : samples.queries].transpose(0, 3, 1, 2)
  return output.reshape(*output.shape[:2], -1).astype(value.dtype)


def backward(
  value: jax.Array,
  spatial_shapes: layout.SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  cotangent: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the gradients of the three arrays from the cotangent `[B, Q, H * D]` of the output."""
  samples = layout.Samples(value, spatial_shapes, sampling_locations, attention_weights)
  cotangent = cotangent.astype(value.dtype).reshape(*attention_weights.shape[:3], samples.dim)
  cotangent = samples.fill(cotangent.transpose(0, 2, 3, 1), 0)  # [B, H, D, Q']

  def tile_bytes(positions: int) -> int:
    gradient = layout.vmem_bytes(samples.dim, positions, samples.dtype)
    return layout.vmem_bytes(positions, samples.dim, value.dtype) + gradient

  def call(bands: Sequence[layout.Band]) -> list[jax.Array]:
    maps = [layout.tile(value, spatial_shapes, band) for band in bands]
    gradients = [
      layout.like(m, (*m.shape[:3], m.shape[4], m.shape[3]), samples.dtype) for m in maps
    ]
    return pl.pallas_call(
      functools.partial(_backward_kernel, bands=bands, points=samples.points),
      in_specs=[
        samples.range_spec(bands),
        *samples.specs,
        samples.block_of(samples.dim),
        *map(layout.resident, maps),
      ],
      out_specs=[*samples.specs, *map(layout.resident, gradients)],
      out_shape=[*map(jax.ShapeDtypeStruct.like, samples.tables), *gradients],
      scratch_shapes=[samples.hats(bands)] * 2,
      interpret=interpret,
      name="ms_deform_attn_backward",
      **samples.grid,
    )(samples.ranges(bands), *samples.tables, cotangent, *maps)

  calls = layout.deal(spatial_shapes, tile_bytes, RESIDENT_BYTES)
  results = [call(bands) for bands in calls]
  x, y, weight = (
    samples.unfold(sum(result[i] for result in results)) for i in range(len(samples.tables))
  )
  bands, gradients = itertools.chain(*calls), itertools.chain(*(result[3:] for result in results))
  parts = [layout.untile(gradient, band) for band, gradient in zip(bands, gradients, strict=True)]
  return (
    jnp.concatenate(parts, axis=1).astype(value.dtype),
    (jnp.stack([x, y], axis=-1) * samples.sizes).astype(sampling_locations.dtype),
    weight.astype(attention_weights.dtype),
  )


# What follows runs inside the kernels. Of a grid step, the tables hold [L * P, block].


def _hat(t: jax.Array) -> jax.Array:
  return jnp.maximum(1 - jnp.abs(t), 0)


def _slope(t: jax.Array) -> jax.Array:
  """Derivative of `_hat`, on its corners the one to the right."""
  return jnp.where((t >= -1) & (t < 0), 1, jnp.where((t >= 0) & (t < 1), -1, 0)).astype(t.dtype)


def _from_first(size: int, like: jax.Array) -> jax.Array:
  """Numbers 0 .. size - 1, one below the other, `[size, block]`."""
  return jax.lax.broadcasted_iota(jnp.int32, (size, like.shape[-1]), 0).astype(like.dtype)


def _matmul(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Contracts these axes, accumulated in float32 at least; float32 numbers without rounding."""
  return jax.lax.dot_general(
    a,
    b,
    (((axes[0],), (axes[1],)), ((), ())),
    precision=None if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
  )


def _samples_of(band: layout.Band, points: int) -> list[slice]:
  """Where the points of a band's level stand in the tables."""
  return [slice(i, i + 1) for i in range(band.level * points, (band.level + 1) * points)]


def _range_of(range_ref, index: int, bands: Sequence[layout.Band]) -> tuple[jax.Array, jax.Array]:
  """Tiles of a band that this block visits."""
  at = (pl.program_id(2) * len(bands) + index) * 2
  return range_ref[0, at], range_ref[0, at + 1]


def _rows_of(band: layout.Band, tile: jax.Array, like: jax.Array) -> jax.Array:
  """Numbers of a tile's rows, `[rows, block]`; filled to whole registers."""
  first = (band.first + tile * band.rows).astype(like.dtype)
  return first + _from_first(layout.round_up(band.rows, layout.SUBLANES), like)


def _matrix(band: layout.Band, weighted_y: Sequence[jax.Array], hat_x) -> jax.Array:
  """A of one tile, `[rows * columns, block]`, from the tables of both axes for each point."""
  return jnp.concatenate(
    [
      sum(y[row : row + 1] * hat_x[p, : band.columns] for p, y in enumerate(weighted_y))
      for row in range(band.rows)
    ]
  )


def _forward_kernel(range_ref, x_ref, y_ref, weight_ref, *refs, bands, points):
  """Output [D, block] from maps [tiles, D, rows * columns]."""
  *map_refs, output_ref, hat_x = refs
  output = jnp.zeros(output_ref.shape, x_ref.dtype)
  for index, (band, map_ref) in enumerate(zip(bands, map_refs, strict=True)):
    samples = _samples_of(band, points)
    columns = _from_first(band.columns, x_ref)
    for p, sample in enumerate(samples):
      hat_x[p, : band.columns] = _hat(x_ref[sample] - columns)

    def visit(tile, output, band=band, map_ref=map_ref, samples=samples):
      rows = _rows_of(band, tile, y_ref)
      weighted_y = [weight_ref[sample] * _hat(y_ref[sample] - rows) for sample in samples]
      matrix = _matrix(band, weighted_y, hat_x).astype(map_ref.dtype)
      return output + _matmul(map_ref[tile], matrix, (1, 0))

    output = jax.lax.fori_loop(*_range_of(range_ref, index, bands), visit, output)
  output_ref[...] = output.astype(output_ref.dtype)


def _backward_kernel(range_ref, x_ref, y_ref, weight_ref, cotangent_ref, *refs, bands, points):
  """Gradients of the tables, and of the maps [tiles, rows * columns, D] as [.., D, ..]."""
  map_refs, refs = refs[: len(bands)], refs[len(bands) :]
  *gradient_refs, hat_x, slope_x = refs
  table_refs, gradient_refs = gradient_refs[:3], gradient_refs[3:]

  @pl.when(pl.program_id(2) == 0)
  def _():
    for gradient_ref in gradient_refs:
      gradient_ref[...] = jnp.zeros_like(gradient_ref)

  for table_ref in table_refs:  # some levels may have no band here
    table_ref[...] = jnp.zeros_like(table_ref)
  for index, (band, map_ref, gradient_ref) in enumerate(
    zip(bands, map_refs, gradient_refs, strict=True)
  ):
    samples = _samples_of(band, points)
    columns = _from_first(band.columns, x_ref)
    for p, sample in enumerate(samples):
      hat_x[p, : band.columns] = _hat(x_ref[sample] - columns)
      slope_x[p, : band.columns] = _slope(x_ref[sample] - columns)

    def visit(tile, sums, band=band, map_ref=map_ref, gradient_ref=gradient_ref, samples=samples):
      cotangent = cotangent_ref[...]
      by_matrix = _matmul(map_ref[tile], cotangent, (1, 0))  # [rows * columns, block]
      below = [y_ref[sample] - _rows_of(band, tile, y_ref) for sample in samples]
      hat_y, slope_y = [_hat(t) for t in below], [_slope(t) for t in below]
      weighted_y = [weight_ref[s] * hat for s, hat in zip(samples, hat_y, strict=True)]
      matrix = _matrix(band, weighted_y, hat_x).astype(map_ref.dtype)
      gradient_ref[tile] += _matmul(cotangent, matrix, (1, 1))
      return _point_sums(band, by_matrix, hat_y, slope_y, hat_x, slope_x, sums)

    sums = [(jnp.zeros((layout.SUBLANES, x_ref.shape[-1]), x_ref.dtype),) * 3] * points
    sums = jax.lax.fori_loop(*_range_of(range_ref, index, bands), visit, sums)
    for sample, of_point in zip(samples, sums, strict=True):
      by_x, by_y, by_weight = (part.sum(0, keepdims=True) for part in of_point)
      for ref, total in zip(
        table_refs, (weight_ref[sample] * by_x, weight_ref[sample] * by_y, by_weight), strict=True
      ):
        ref[sample] = total


def _point_sums(band, by_matrix, hat_y, slope_y, hat_x, slope_x, sums):
  """Adds a tile's part to each point's derivatives by x, y and weight, those by x, y unweighted.

  A sum over columns stops at one register, `[8, block]`; the rest is added up after the last tile.
  """

  def over_columns(table: jax.Array) -> jax.Array:
    return table.reshape(-1, layout.SUBLANES, table.shape[-1]).sum(0)

  for row in range(band.rows):
    part = by_matrix[row * band.columns : (row + 1) * band.columns]
    for p, (by_x, by_y, by_weight) in enumerate(sums):
      hat, slope = hat_y[p][row : row + 1], slope_y[p][row : row + 1]
      across_hat = over_columns(part * hat_x[p, : band.columns])
      across_slope = over_columns(part * slope_x[p, : band.columns])
      sums[p] = by_x + hat * across_slope, by_y + slope * across_hat, by_weight + hat * across_hat
  return sums
