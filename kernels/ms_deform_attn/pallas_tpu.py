"""Multi-scale deformable attention for TPUs: hat functions and matrix products, no gather.

A TensorCore cannot gather. But bilinear sampling is linear in the map, and its weights are products
of two hat functions: with hat(t) = max(0, 1 - |t|), query q takes from pixel (i, j) of a level

  A[q, i, j] = sum_p weight[q, p] * hat(y[q, p] - i) * hat(x[q, p] - j)

(points p, positions in pixels; off the map there are no pixels, so points there count nothing by
themselves). The output is the matrix product of A and the map, for each head by itself. A is never
stored: it is made tile by tile on the vector unit and consumed by the matrix unit.

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

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

SpatialShapes = tuple[tuple[int, int], ...]

QUERY_BLOCK = 256
TILE = 256
# Of the maps and their gradients, buffers included. The smallest VMEM, a TPU v4's, has 16 MiB.
RESIDENT_BYTES = 12 * 2**20

_LANES, _SUBLANES = 128, 8
# Position of a point off the map, which touches no pixel.
_OFF = -2


@dataclasses.dataclass(frozen=True)
class Band:
  """Some whole rows of the map of one level: all of them where they fit.

  Attributes:
    level: index of the level.
    first: its first row.
    height: number of rows.
    width: of the level.
  """

  level: int
  first: int
  height: int
  width: int

  @property
  def columns(self) -> int:
    """Width of a row in a tile."""
    return _up(self.width, _SUBLANES)

  @property
  def rows(self) -> int:
    """Rows of a tile."""
    return min(max(1, TILE // self.columns), self.height)

  @property
  def tiles(self) -> int:
    """Number of tiles; the last one may reach below the map."""
    return -(-self.height // self.rows)


def forward(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Computes the output `[B, Q, H * D]`; arguments as of `ms_deform_attn`."""
  samples = Samples(value, spatial_shapes, sampling_locations, attention_weights)
  calls = deal(spatial_shapes, lambda k: _bytes(samples.dim, k, value.dtype), RESIDENT_BYTES)
  # Sums of several calls are rounded once, at the end.
  dtype = value.dtype if len(calls) == 1 else samples.dtype

  def call(bands: Sequence[Band]) -> jax.Array:
    maps = [_tile(value, spatial_shapes, band).swapaxes(-1, -2) for band in bands]
    return pl.pallas_call(
      functools.partial(_forward_kernel, bands=bands, points=samples.points),
      in_specs=[samples.range_spec(bands), *samples.specs, *map(_resident, maps)],
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
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  cotangent: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the gradients of the three arrays from the cotangent `[B, Q, H * D]` of the output."""
  samples = Samples(value, spatial_shapes, sampling_locations, attention_weights)
  cotangent = cotangent.astype(value.dtype).reshape(*attention_weights.shape[:3], samples.dim)
  cotangent = samples.fill(cotangent.transpose(0, 2, 3, 1), 0)  # [B, H, D, Q']

  def tile_bytes(positions: int) -> int:
    gradient = _bytes(samples.dim, positions, samples.dtype)
    return _bytes(positions, samples.dim, value.dtype) + gradient

  def call(bands: Sequence[Band]) -> list[jax.Array]:
    maps = [_tile(value, spatial_shapes, band) for band in bands]
    gradients = [_like(m, (*m.shape[:3], m.shape[4], m.shape[3]), samples.dtype) for m in maps]
    return pl.pallas_call(
      functools.partial(_backward_kernel, bands=bands, points=samples.points),
      in_specs=[
        samples.range_spec(bands),
        *samples.specs,
        samples.block_of(samples.dim),
        *map(_resident, maps),
      ],
      out_specs=[*samples.specs, *map(_resident, gradients)],
      out_shape=[*map(jax.ShapeDtypeStruct.like, samples.tables), *gradients],
      scratch_shapes=[samples.hats(bands)] * 2,
      interpret=interpret,
      name="ms_deform_attn_backward",
      **samples.grid,
    )(samples.ranges(bands), *samples.tables, cotangent, *maps)

  calls = deal(spatial_shapes, tile_bytes, RESIDENT_BYTES)
  results = [call(bands) for bands in calls]
  x, y, weight = (
    samples.unfold(sum(result[i] for result in results)) for i in range(len(samples.tables))
  )
  bands, gradients = itertools.chain(*calls), itertools.chain(*(result[3:] for result in results))
  parts = [_untile(gradient, band) for band, gradient in zip(bands, gradients, strict=True)]
  return (
    jnp.concatenate(parts, axis=1).astype(value.dtype),
    (jnp.stack([x, y], axis=-1) * samples.sizes).astype(sampling_locations.dtype),
    weight.astype(attention_weights.dtype),
  )


def tile_ranges(bands: Sequence[Band], y: jax.Array, block: int) -> jax.Array:
  """Finds which tiles each block of queries has to visit.

  Args:
    bands: the rows of the maps.
    y: `[B, H, L, P, Q']` in pixels of the level, -2 for points off the map.
    block: number of queries in a block, which divides Q'.

  Returns:
    int32 `[B, H, Q' / block, bands, 2]`: the first tile, and the one after the last.
  """

  def of_band(band: Band) -> jax.Array:
    row = jnp.floor(y[:, :, band.level]) - band.first  # the upper one of the two that count
    row = row.reshape(*row.shape[:3], -1, block)
    off = (row < -1) | (row >= band.height)
    first = jnp.where(off, band.tiles * band.rows, jnp.maximum(row, 0)).astype(jnp.int32)
    last = jnp.where(off, -1, jnp.minimum(row + 1, band.height - 1)).astype(jnp.int32)
    ends = first.min((2, 4)) // band.rows, last.max((2, 4)) // band.rows + 1
    return jnp.stack(ends, axis=-1)  # [B, H, steps, 2]

  return jnp.stack([of_band(band) for band in bands], axis=3)


class Samples:
  """The sampled points as the kernels read them, in pixels, with the queries along the lanes.

  Attributes:
    tables: x, y and attention weight, each `[B, H, L * P, Q']`; Q' is Q filled to whole blocks.
    specs: their blocks.
    grid: what every call has in common.
    sizes: (width, height) of each level, `[L, 1, 2]`.
    dtype: of the computation.
    queries, points, dim: Q, P and D.
  """

  def __init__(self, value, spatial_shapes, locations, weights):
    batch, self.queries, heads, self._levels, self.points = weights.shape
    self.dim = value.shape[-1]
    self.dtype = jnp.promote_types(value.dtype, jnp.float32)
    self._block = min(QUERY_BLOCK, _up(self.queries, _LANES))
    self.sizes = jnp.asarray(spatial_shapes, self.dtype)[:, None, ::-1]
    pixels = locations.astype(self.dtype) * self.sizes - 0.5
    # Whatever is no number is not inside either.
    inside = jnp.all((pixels >= -1) & (pixels < self.sizes), axis=-1)
    x, y = (self._fold(jnp.where(inside, pixels[..., i], _OFF), _OFF) for i in (0, 1))
    self.tables = x, y, self._fold(weights.astype(self.dtype), 0)
    padded = x.shape[-1]
    self._y = y.reshape(batch, heads, self._levels, self.points, padded)
    self.specs = [self.block_of(x.shape[2])] * len(self.tables)
    self.grid = {
      "grid": (batch, heads, padded // self._block),
      # The blocks of a head add to the same gradient of its map.
      "compiler_params": pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary")
      ),
    }

  def fill(self, array: jax.Array, fill: float) -> jax.Array:
    """Fills the last axis, of queries, to whole blocks."""
    more = -self.queries % self._block
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, more),), constant_values=fill)

  def _fold(self, array: jax.Array, fill: float) -> jax.Array:
    """`[B, Q, H, L, P]` as `[B, H, L * P, Q']`."""
    array = array.transpose(0, 2, 3, 4, 1)
    return self.fill(array.reshape(*array.shape[:2], -1, self.queries), fill)

  def unfold(self, table: jax.Array) -> jax.Array:
    """`[B, H, L * P, Q']` as `[B, Q, H, L, P]`."""
    table = table[..., : self.queries]
    table = table.reshape(*table.shape[:2], self._levels, -1, self.queries)
    return table.transpose(0, 4, 1, 2, 3)

  def ranges(self, bands: Sequence[Band]) -> jax.Array:
    """Tiles to visit, in one row for each image and head, which scalar memory takes."""
    ranges = tile_ranges(bands, self._y, self._block)
    return ranges.reshape(*ranges.shape[:2], 1, -1)

  def range_spec(self, bands: Sequence[Band]) -> pl.BlockSpec:
    """Block of `ranges`."""
    numbers = 2 * len(bands) * self.grid["grid"][2]
    return pl.BlockSpec(
      (None, None, 1, numbers), lambda b, h, q: (b, h, 0, 0), memory_space=pltpu.SMEM
    )

  def block_of(self, rows: int) -> pl.BlockSpec:
    """Block of an array `[B, H, rows, Q']`."""
    return pl.BlockSpec((None, None, rows, self._block), lambda b, h, q: (b, h, 0, q))

  def array_of(self, rows: int, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """An array `[B, H, rows, Q']`."""
    batch, heads, _, padded = self.tables[0].shape
    return _like(self.tables[0], (batch, heads, rows, padded), dtype)

  def hats(self, bands: Sequence[Band]) -> pltpu.VMEM:
    """Scratch memory for a number for each point, column and query of one level."""
    return pltpu.VMEM((self.points, max(band.columns for band in bands), self._block), self.dtype)


def deal(
  spatial_shapes: SpatialShapes, tile_bytes: Callable[[int], int], budget: int
) -> list[tuple[Band, ...]]:
  """Deals the rows of all maps, in order, to calls whose arrays fit in VMEM.

  Args:
    spatial_shapes: (height, width) of each level.
    tile_bytes: how much a tile of so many positions takes, all arrays together.
    budget: bytes for all of a call, each array twice; exceeded only where one tile does.

  Returns:
    The bands of each call.
  """
  calls, left = [[]], budget
  for level, (height, width) in enumerate(spatial_shapes):
    first = 0
    while first < height:
      band = Band(level, first, height - first, width)
      # Each is there twice: the next head's is fetched, or written back, meanwhile.
      fitting = left // (2 * tile_bytes(band.rows * band.columns))
      if fitting < 1 and calls[-1]:
        calls, left = [*calls, []], budget
        continue
      tiles = max(1, min(band.tiles, fitting))
      band = dataclasses.replace(band, height=min(tiles * band.rows, height - first))
      calls[-1].append(band)
      left -= 2 * tiles * tile_bytes(band.rows * band.columns)
      first += band.height
  return [tuple(bands) for bands in calls]


def _like(array: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
  """Describes an output: inside a shard_map, one that differs on each shard if `array` does."""
  return jax.ShapeDtypeStruct.like(array).update(shape=shape, dtype=dtype)


def _bytes(rows: int, columns: int, dtype: jnp.dtype) -> int:
  """Size of an array in VMEM, where the last axis fills whole registers."""
  return _up(rows, _SUBLANES) * _up(columns, _LANES) * jnp.dtype(dtype).itemsize


def _resident(array) -> pl.BlockSpec:
  """Block of an array `[B, H, ...]`: all of a head, through all its blocks of queries."""
  return pl.BlockSpec((None, None, *array.shape[2:]), lambda b, h, q: (b, h, 0, 0, 0))


def _tile(value: jax.Array, spatial_shapes: SpatialShapes, band: Band) -> jax.Array:
  """Cuts a band out of `[B, S, H, D]` and into tiles, `[B, H, tiles, rows * columns, D]`."""
  batch, _, heads, dim = value.shape
  before = sum(height * width for height, width in spatial_shapes[: band.level])
  start = before + band.first * band.width
  part = value[:, start : start + band.height * band.width]
  part = part.reshape(batch, band.height, band.width, heads, dim)
  below, beside = band.tiles * band.rows - band.height, band.columns - band.width
  part = jnp.pad(part, ((0, 0), (0, below), (0, beside), (0, 0), (0, 0)))
  part = part.reshape(batch, band.tiles, band.rows * band.columns, heads, dim)
  return part.transpose(0, 3, 1, 2, 4)


def _untile(tiles: jax.Array, band: Band) -> jax.Array:
  """Puts tiles `[B, H, tiles, D, rows * columns]` together to `[B, height * width, H, D]`."""
  batch, heads, _, dim, _ = tiles.shape
  part = tiles.transpose(0, 2, 4, 1, 3)
  part = part.reshape(batch, band.tiles * band.rows, band.columns, heads, dim)
  return part[:, : band.height, : band.width].reshape(batch, -1, heads, dim)


def _up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple


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


def _samples_of(band: Band, points: int) -> list[slice]:
  """Where the points of a band's level stand in the tables."""
  return [slice(i, i + 1) for i in range(band.level * points, (band.level + 1) * points)]


def _range_of(range_ref, index: int, bands: Sequence[Band]) -> tuple[jax.Array, jax.Array]:
  """Tiles of a band that this block visits."""
  at = (pl.program_id(2) * len(bands) + index) * 2
  return range_ref[0, at], range_ref[0, at + 1]


def _rows_of(band: Band, tile: jax.Array, like: jax.Array) -> jax.Array:
  """Numbers of a tile's rows, `[rows, block]`; filled to whole registers."""
  first = (band.first + tile * band.rows).astype(like.dtype)
  return first + _from_first(_up(band.rows, _SUBLANES), like)


def _matrix(band: Band, weighted_y: Sequence[jax.Array], hat_x) -> jax.Array:
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

    sums = [(jnp.zeros((_SUBLANES, x_ref.shape[-1]), x_ref.dtype),) * 3] * points
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
    return table.reshape(-1, _SUBLANES, table.shape[-1]).sum(0)

  for row in range(band.rows):
    part = by_matrix[row * band.columns : (row + 1) * band.columns]
    for p, (by_x, by_y, by_weight) in enumerate(sums):
      hat, slope = hat_y[p][row : row + 1], slope_y[p][row : row + 1]
      across_hat = over_columns(part * hat_x[p, : band.columns])
      across_slope = over_columns(part * slope_x[p, : band.columns])
      sums[p] = by_x + hat * across_slope, by_y + slope * across_hat, by_weight + hat * across_hat
  return sums
