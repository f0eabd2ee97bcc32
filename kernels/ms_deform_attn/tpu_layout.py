"""Lays out maps and points for the TPU kernels: tiles of rows, blocks of queries, bands in VMEM.

`pallas_tpu` explains the words. Nothing here runs inside a kernel.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

SpatialShapes = tuple[tuple[int, int], ...]

QUERY_BLOCK = 256
TILE = 256
LANES, SUBLANES = 128, 8
# Position of a point off the map, which touches no pixel.
_OFF = -2


@dataclasses.dataclass(frozen=True)
class Band:
  """Some whole rows of the map of one level: all of them where they fit.

  Attributes:
    level: index of the level.
    first: its first row.
    height: number of rows.
    width: width of the level.
  """

  level: int
  first: int
  height: int
  width: int

  @property
  def columns(self) -> int:
    """Width of a row in a tile."""
    return round_up(self.width, SUBLANES)

  @property
  def rows(self) -> int:
    """Rows of a tile."""
    return min(max(1, TILE // self.columns), self.height)

  @property
  def tiles(self) -> int:
    """Number of tiles; the last one may reach below the map."""
    return -(-self.height // self.rows)


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
    grid: grid that every call has in common.
    sizes: (width, height) of each level, `[L, 1, 2]`.
    dtype: dtype of the computation.
    queries, points, dim: Q, P and D.
  """

  def __init__(self, value, spatial_shapes, locations, weights):
    batch, self.queries, heads, self._levels, self.points = weights.shape
    self.dim = value.shape[-1]
    self.dtype = jnp.promote_types(value.dtype, jnp.float32)
    self._block = min(QUERY_BLOCK, round_up(self.queries, LANES))
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
    return like(self.tables[0], (batch, heads, rows, padded), dtype)

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


def like(array: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
  """Describes an output: inside a shard_map, one that differs on each shard if `array` does."""
  return jax.ShapeDtypeStruct.like(array).update(shape=shape, dtype=dtype)


def vmem_bytes(rows: int, columns: int, dtype: jnp.dtype) -> int:
  """Size of an array in VMEM, where the last axis fills whole registers."""
  return round_up(rows, SUBLANES) * round_up(columns, LANES) * jnp.dtype(dtype).itemsize


def resident(array) -> pl.BlockSpec:
  """Block of an array `[B, H, ...]`: all of a head, through all its blocks of queries."""
  return pl.BlockSpec((None, None, *array.shape[2:]), lambda b, h, q: (b, h, 0, 0, 0))


def tile(value: jax.Array, spatial_shapes: SpatialShapes, band: Band) -> jax.Array:
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


def untile(tiles: jax.Array, band: Band) -> jax.Array:
  """Puts tiles `[B, H, tiles, D, rows * columns]` together to `[B, height * width, H, D]`."""
  batch, heads, _, dim, _ = tiles.shape
  part = tiles.transpose(0, 2, 4, 1, 3)
  part = part.reshape(batch, band.tiles * band.rows, band.columns, heads, dim)
  return part[:, : band.height, : band.width].reshape(batch, -1, heads, dim)


def round_up(number: int, multiple: int) -> int:
  """The smallest multiple that is not below the number."""
  return -(-number // multiple) * multiple
