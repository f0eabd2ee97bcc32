"""Corner values for TPUs: one-hot matrix products, no gather, and every number exact.

A TensorCore cannot gather. But the entries of a map in the columns c of many positions are the
product of the map and of a matrix with a single 1 in each column, and of those the ones in row r
are a sum with all others left out:

  picked[i, k] = sum_j map[i, j] * (j == column[k])         on the matrix unit
  corner[k]    = sum_i picked[i, k] * (i == row[k])         on the vector unit

  exact      the matrix unit multiplies bfloat16 numbers, of 8 bits. A float32 number is the sum of
             three of them, an integer below 2^16 is two bytes; each part is picked by itself
  corners    the column to the right is picked from the map rolled by one, with the same one-hot
             matrix, and the row below by another comparison
  a block    512 positions, 256 of wider maps, which lie along the lanes
  skipping   the tiles of `ROWS` rows from the first to the last row that a block touches are
             visited, and no others: sort the positions by row. Without an order all are visited

Backward, the cotangents of the corners are put into their rows, [rows, positions], in three parts,
and multiplied with the transposed one-hot matrix: a scatter that adds, exact but for the order of
its sums.

A number that is not finite spreads to the positions of all blocks that visit its tile (0 * inf).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

ROWS = 8
LANES = 128
# Largest entry of an integer map: two bytes, of which the upper one may be 2^8.
MAX_INTEGER = 2**16 + 2**8 - 1
# Of a map, or of the part of its rows that is in VMEM. The smallest VMEM, a TPU v4's, has 16 MiB,
# and the next map arrives while one is worked on.
RESIDENT_BYTES = 4 * 2**20


def forward(
  maps: jax.Array,
  which: jax.Array | None,
  row: jax.Array,
  column: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Computes `[N, 4, K]`; arguments as of `corner_values`."""
  height, width = maps.shape[1:]
  if which is None:
    which = jnp.arange(len(maps), dtype=jnp.int32)
  corners = 0
  for first, size in _bands(height, width):
    band = _fill(maps[:, first : first + size])
    corners += _forward_call(
      band, which, _Positions(row - first, column, (size, width)), width, interpret
    )
  return corners[..., : row.shape[1]].astype(maps.dtype)


def backward(
  shape: tuple[int, int],
  row: jax.Array,
  column: jax.Array,
  cotangent: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Adds the cotangents of corners up in maps.

  Args:
    shape: (H, W) of the maps.
    row: [N, K] int32.
    column: [N, K] int32.
    cotangent: [N, 4, K] float32.
    interpret: whether to interpret the kernel, on any platform.

  Returns:
    [N, H, W] float32, a map for each row of positions.
  """
  height, width = shape
  parts = []
  for first, size in _bands(height, width):
    positions = _Positions(row - first, column, (size, width))
    part = _backward_call(size, width, positions, positions.fill(cotangent, 0), interpret)
    parts.append(part[:, :size, :width])
  return jnp.concatenate(parts, axis=1)


def _bands(height: int, width: int) -> list[tuple[int, int]]:
  """(First row, number of rows) of the parts that fit in VMEM."""
  rows = max(ROWS, RESIDENT_BYTES // (4 * _round_up(width, LANES)) // ROWS * ROWS)
  return [(first, min(rows, height - first)) for first in range(0, height, rows)]


def _fill(maps: jax.Array) -> jax.Array:
  """Fills the maps to whole tiles."""
  height, width = maps.shape[1:]
  more = (0, _round_up(height, ROWS) - height), (0, _round_up(width, LANES) - width)
  return jnp.pad(maps, ((0, 0), *more)) if any(map(any, more)) else maps


class _Positions:
  """Positions in blocks, and the tiles that each block visits.

  Attributes:
    arrays: rows and columns, `[N, 2, K']`.
    ranges: `[N * steps * 2]` int32, the first tile of a block and the one after its last.
    spec: block of `arrays`.
    grid: (N, steps).
  """

  def __init__(self, row: jax.Array, column: jax.Array, shape: tuple[int, int]):
    (number, count), (height, width) = row.shape, shape
    # The one-hot matrix is made for each tile of rows: a wide one of many positions takes longer
    # than the further blocks do.
    self._block = min(512 if width <= 256 else 256, _round_up(count, LANES))
    self._more = -count % self._block
    self.grid = number, (count + self._more) // self._block
    self.arrays = self.fill(jnp.stack([row, column], axis=1), -2)  # such a row is in no tile
    blocks = self.arrays[:, 0].reshape(*self.grid, self._block)
    off = (blocks < -1) | (blocks >= height)
    first = jnp.where(off, height, jnp.maximum(blocks, 0)).min(-1) // ROWS
    last = jnp.where(off, -ROWS, jnp.minimum(blocks + 1, height - 1)).max(-1) // ROWS
    self.ranges = jnp.stack([first, last + 1], axis=-1).reshape(-1)
    self.spec = self.block_of(2)

  def fill(self, array: jax.Array, fill: int) -> jax.Array:
    """Fills `[N, rows, K]` to whole blocks."""
    return jnp.pad(array, ((0, 0), (0, 0), (0, self._more)), constant_values=fill)

  def like(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """A float32 output, which inside a shard_map differs on each shard as positions do."""
    return jax.ShapeDtypeStruct.like(self.arrays).update(shape=shape, dtype=jnp.float32)

  def block_of(self, rows: int) -> pl.BlockSpec:
    """Block of an array `[N, rows, K']`."""
    return pl.BlockSpec((None, rows, self._block), lambda n, k, *_: (n, 0, k))


def _forward_call(maps, which, positions, width, interpret):
  def map_of(n, k, which, ranges):
    del k, ranges
    return which[n], 0, 0

  shape = positions.grid[0], 4, positions.arrays.shape[2]
  return pl.pallas_call(
    functools.partial(_forward_kernel, width=width),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=positions.grid,
      in_specs=[positions.spec, pl.BlockSpec((None, *maps.shape[1:]), map_of)],
      out_specs=positions.block_of(4),
    ),
    out_shape=positions.like(shape),
    interpret=interpret,
    name="corner_values_forward",
  )(which, positions.ranges, positions.arrays, maps)


def _backward_call(height, width, positions, cotangent, interpret):
  sides = _round_up(height, ROWS), _round_up(width, LANES)
  return pl.pallas_call(
    functools.partial(_backward_kernel, width=width),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=positions.grid,
      in_specs=[positions.spec, positions.block_of(4)],
      out_specs=pl.BlockSpec((None, *sides), lambda n, k, ranges: (n, 0, 0)),
    ),
    out_shape=positions.like((positions.grid[0], *sides)),
    # The blocks of a map add to it.
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    interpret=interpret,
    name="corner_values_backward",
  )(positions.ranges, positions.arrays, cotangent)


def _round_up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple


# What follows runs inside the kernels.


def _forward_kernel(which_ref, range_ref, position_ref, map_ref, corner_ref, *, width):
  """Corners [4, block] from a map [rows, columns]."""
  del which_ref
  row, column = position_ref[0:1], position_ref[1:2]
  columns, block = map_ref.shape[1], row.shape[1]
  one_hot = _one_hot(column, columns)

  def visit(tile, sums):
    start = pl.multiple_of(tile * ROWS, ROWS)
    split = _split if map_ref.dtype == jnp.float32 else _bytes
    parts = split(map_ref[pl.ds(start, ROWS)])
    parts += [pltpu.roll(part, columns - 1, 1) for part in parts]  # entries to the right
    picked = _matmul(jnp.concatenate(parts).astype(jnp.bfloat16), one_hot, 0)
    picked = picked.reshape(2, len(parts) // 2, ROWS, block)
    values = [_join(side, map_ref.dtype) for side in (picked[0], picked[1])]  # [rows, block]
    masks = _in_rows(row, start)
    found = [jnp.where(mask, value, 0) for mask in masks for value in values]
    return tuple(a + b for a, b in zip(sums, found, strict=True))

  zeros = (jnp.zeros((ROWS, block), jnp.float32),) * 4
  sums = jax.lax.fori_loop(*_range_of(range_ref), visit, zeros)
  corners = [part.sum(0, keepdims=True) for part in sums]
  inside = _sides(column, width)
  corner_ref[...] = jnp.concatenate(
    [jnp.where(inside[i % 2], corner, 0) for i, corner in enumerate(corners)]
  )


def _backward_kernel(range_ref, position_ref, cotangent_ref, gradient_ref, *, width):
  """Adds cotangents [4, block] to the gradient of a map [rows, columns]."""

  @pl.when(pl.program_id(1) == 0)
  def _():
    gradient_ref[...] = jnp.zeros_like(gradient_ref)

  row, column = position_ref[0:1], position_ref[1:2]
  columns = gradient_ref.shape[1]
  one_hot = _one_hot(column, columns)
  inside = _sides(column, width)
  cotangents = [jnp.where(inside[i % 2], cotangent_ref[i : i + 1], 0) for i in range(4)]

  def visit(tile, _):
    start = pl.multiple_of(tile * ROWS, ROWS)
    upper, lower = _in_rows(row, start)
    parts = []
    for side in (0, 1):
      placed = jnp.where(upper, cotangents[side], 0) + jnp.where(lower, cotangents[2 + side], 0)
      parts += _split(placed)
    spread = _matmul(jnp.concatenate(parts).astype(jnp.bfloat16), one_hot, 1)
    spread = spread.reshape(2, len(parts) // 2, ROWS, columns)
    left, right = (_join(side, jnp.float32) for side in (spread[0], spread[1]))
    gradient_ref[pl.ds(start, ROWS)] += left + pltpu.roll(right, 1, 1)
    return 0

  jax.lax.fori_loop(*_range_of(range_ref), visit, 0)


def _range_of(range_ref) -> tuple[jax.Array, jax.Array]:
  """Tiles that this block visits."""
  at = 2 * (pl.program_id(0) * pl.num_programs(1) + pl.program_id(1))
  return range_ref[at], range_ref[at + 1]


def _one_hot(column: jax.Array, columns: int) -> jax.Array:
  """`[columns, block]` bfloat16 with a 1 where a position's column is; -1 is the last of them."""
  numbers = jax.lax.broadcasted_iota(jnp.int32, (columns, column.shape[1]), 0)
  found = numbers == jnp.where(column < 0, columns - 1, column)
  return jnp.where(found, 1.0, 0.0).astype(jnp.bfloat16)


def _sides(column: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
  """Whether a position's column, and the one to the right, are in the map, `[1, block]`."""
  return (column >= 0) & (column < width), (column >= -1) & (column < width - 1)


def _in_rows(row: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Where in a tile a position's row is, and the one below, `[ROWS, block]`."""
  numbers = jax.lax.broadcasted_iota(jnp.int32, (ROWS, row.shape[1]), 0) + start
  return numbers == row, numbers == row + 1


def _split(x: jax.Array) -> list[jax.Array]:
  """Three float32 arrays that bfloat16 holds exactly and whose sum is x."""
  parts = []
  for _ in range(3):
    # Bits are cut off. A rounding and its inverse are what a compiler may leave out.
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & -(2**16)
    parts.append(jax.lax.bitcast_convert_type(bits, jnp.float32))
    x = x - parts[-1]
  return parts


def _bytes(x: jax.Array) -> list[jax.Array]:
  """The upper and the lower byte of integers, as float32."""
  return [(x >> 8).astype(jnp.float32), (x & 255).astype(jnp.float32)]


def _join(parts: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Inverse of `_split`, for another dtype of `_bytes`."""
  if dtype == jnp.float32:
    return parts[0] + (parts[1] + parts[2])
  return 256 * parts[0] + parts[1]


def _matmul(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
  """Contracts the columns of a with this axis of b, accumulated in float32."""
  return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
