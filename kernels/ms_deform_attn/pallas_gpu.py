"""Multi-scale deformable attention for NVIDIA GPUs: gathers and atomic additions, in Pallas-Triton.

Points and their corners are as in `corners`. There are three kernels, each on a grid of (programs,
heads, images). A program reads locations and attention weights as they are laid out, works out the
corners in registers, and handles a block of rows of D values of one head, `ELEMENTS` in all:

  forward           a row is a query; a loop over its L * P points gathers the 4 corners of each and
                    adds them up in float32 (or wider, like the values)
  point gradients   a row is one point of a query; the dot products of its corners with the
                    cotangent are pulled back through `corners` to location and attention weight
  value gradient    a row is one point of a query; 4 atomic additions of weight times cotangent into
                    a float32 buffer of zeros, which is then rounded to the dtype of the values

Additions to one value happen in any order: the last bits of the value gradient may differ from run
to run. Everything else is deterministic.

Cost in bytes, with V, O, P and A those of value, output, locations and attention weights, W those
of the float32 buffer, and G = 4 B Q H L P D itemsize those of the rows gathered or added (float32,
one image at 512 x 512: V = O = W = 5.5 MB, P = 4.1 MB, A = 2.1 MB, G = 264 MB):

  forward           V + P + A + O in HBM; G through the L1 caches
  point gradients   V + 2 P + 2 A + O in HBM; 5/4 G through L1, as each row reads its cotangent
  value gradient    3 W + P + A + O in HBM, and W + V to round to bfloat16; G in the L2 cache, where
                    atomic additions take place

G never reaches HBM: the maps of a few images fit the 50 MB of L2, and what neighbouring queries
sample, which share a program, are neighbouring pixels, which stay in L1.

Block size, with float32 rows of 32: a warp holds four rows, of which 8 threads read one, 16 bytes
each. With 1024 values for 4 warps, a thread has two rows, 8 loads of corners under way, and 40
registers, so that 48 of at most 64 warps fit a multiprocessor; four rows would take it 72.
An atomic addition of Pallas is always both acquire and release: it waits for the one before it and
empties L1. Hence the value gradient is a kernel of its own, which gathers nothing and reads all it
needs before it adds, and has 8 warps: one row and 4 additions for a thread, 30 registers, and all
64 warps to hide the waiting in. Registers are those of programs compiled for an H100 (`aot_gpu`);
no time was measured.

The interpreter's rule for `plgpu.atomic_add` supports neither masks nor an index that occurs twice.
So the additions are `jax.ref.addupdate`, which becomes the same atomic addition in a Triton kernel,
but has no mask: rows and corners that do not count add 0 to some valid place.
"""

import functools
import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas.triton import CompilerParams, load, store

from kernels.ms_deform_attn.corners import corners

SpatialShapes = tuple[tuple[int, int], ...]

# Of the block [rows, D], D filled to a power of two, that a program computes with.
ELEMENTS = 1024
# Of 32 threads each.
GATHER_WARPS, ADD_WARPS = 4, 8

# Newer releases of JAX announce the end of this backend wherever such a kernel is lowered. Mosaic
# GPU, which they advise, can neither gather rows by an array of indices nor add to them (0.12.0).
# When the end has come, GPUs take the implementation in plain JAX (`api`).
warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)


def forward(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """Computes the output `[B, Q, H * D]`; arguments as of `ms_deform_attn`.

  With `interpret`, the kernel runs as a plain JAX program, on any device.
  """
  batch, queries, heads = attention_weights.shape[:3]
  (output,) = _call(
    _forward_kernel,
    spatial_shapes,
    queries,
    [value, *_flat(sampling_locations, attention_weights)],
    [jax.ShapeDtypeStruct.like(value).update(shape=(batch, queries, heads, value.shape[-1]))],
    warps=GATHER_WARPS,
    interpret=interpret,
  )
  return output.reshape(batch, queries, -1)


def backward(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  cotangent: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the gradients by value, locations and weights, in their shapes and dtypes.

  `cotangent` is that of the output, `[B, Q, H * D]`; the other arguments are as of `forward`.
  """
  locations, weights = _flat(sampling_locations, attention_weights)
  batch, queries, heads, points = weights.shape
  cotangent = cotangent.reshape(batch, queries, heads, -1)
  call = functools.partial(
    _call, spatial_shapes=spatial_shapes, rows=queries * points, interpret=interpret
  )
  location_gradient, weight_gradient = call(
    _point_gradient_kernel,
    inputs=[value, locations, weights, cotangent],
    outputs=[locations, weights],
    warps=GATHER_WARPS,
  )
  zeros = jnp.zeros_like(value, dtype=_compute_dtype(value))
  (value_gradient,) = call(
    _value_gradient_kernel,
    inputs=[zeros, locations, weights, cotangent],
    outputs=[zeros],
    aliases={0: 0},
    warps=ADD_WARPS,
  )
  return (
    value_gradient.astype(value.dtype),
    location_gradient.reshape(sampling_locations.shape),
    weight_gradient.reshape(attention_weights.shape),
  )


def _call(
  kernel: Callable[..., None],
  spatial_shapes: SpatialShapes,
  rows: int,
  inputs: Sequence[jax.Array],
  outputs: Sequence[jax.Array | jax.ShapeDtypeStruct],
  *,
  warps: int,
  interpret: bool,
  aliases: dict[int, int] | None = None,
) -> list[jax.Array]:
  """Runs a kernel over `rows` of each head, which it sees of arrays `[B, N, H, ...]` as `[N, ...]`.

  The first input is `[B, S, H, D]`. `aliases` names inputs whose memory an output takes over.
  """
  batch, _, heads, dim = inputs[0].shape
  block = max(1, ELEMENTS // pl.next_power_of_2(dim))

  def spec(array):
    shape = (None, array.shape[1], None, *array.shape[3:])
    return pl.BlockSpec(shape, lambda _, head, image: (image, 0, head, *(0 for _ in shape[3:])))

  return pl.pallas_call(
    functools.partial(kernel, spatial_shapes=spatial_shapes, block=block),
    out_shape=[jax.ShapeDtypeStruct.like(array) for array in outputs],
    grid=(pl.cdiv(rows, block), heads, batch),
    in_specs=[spec(array) for array in inputs],
    out_specs=[spec(array) for array in outputs],
    input_output_aliases=aliases or {},
    # There is nothing to pipeline: addresses come from memory.
    compiler_params=CompilerParams(num_warps=warps, num_stages=1),
    interpret=interpret,
    name="ms_deform_attn" + kernel.__name__.removesuffix("_kernel"),
  )(*inputs)


def _forward_kernel(value_ref, locations_ref, weights_ref, output_ref, *, spatial_shapes, block):
  """Writes the output `[Q, D]` of `block` queries."""
  queries, points = weights_ref.shape
  query = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
  valid = query < queries
  dtype = _compute_dtype(value_ref)

  def add_point(point, output):
    arguments, sizes, start = _point(
      locations_ref, weights_ref, query, point, valid, spatial_shapes, dtype
    )
    for weight, index in zip(*corners(*arguments, *sizes), strict=True):
      output += weight[:, None] * _load_rows(value_ref, start + index).astype(dtype)
    return output

  lane, inside = _lanes(output_ref)
  output = jnp.zeros((block, lane.size), dtype)
  output = jax.lax.fori_loop(jnp.int32(0), jnp.int32(points), add_point, output)
  row_ref = output_ref.at[query[:, None], lane]
  store(row_ref, output.astype(row_ref.dtype), mask=valid[:, None] & inside)


def _point_gradient_kernel(
  value_ref,
  locations_ref,
  weights_ref,
  cotangent_ref,
  location_gradient_ref,
  weight_gradient_ref,
  *,
  spatial_shapes,
  block,
):
  """Writes the gradients of `block` points, `[Q, L * P, 2]` and `[Q, L * P]`."""
  query, point, valid = _points(weights_ref, block)
  dtype = _compute_dtype(value_ref)
  arguments, (height, width), start = _point(
    locations_ref, weights_ref, query, point, valid, spatial_shapes, dtype
  )
  corners_of = functools.partial(corners, height=height, width=width)
  _, pull, indices = jax.vjp(corners_of, *arguments, has_aux=True)
  cotangent = _load_rows(cotangent_ref, query, valid[:, None]).astype(dtype)
  rows = (_load_rows(value_ref, start + index).astype(dtype) for index in indices)
  gradients = pull(tuple(jnp.sum(row * cotangent, axis=1) for row in rows))
  refs = (
    location_gradient_ref.at[query, point, 0],
    location_gradient_ref.at[query, point, 1],
    weight_gradient_ref.at[query, point],
  )
  for ref, gradient in zip(refs, gradients, strict=True):
    store(ref, gradient.astype(ref.dtype), mask=valid)


def _value_gradient_kernel(
  zeros_ref, locations_ref, weights_ref, cotangent_ref, gradient_ref, *, spatial_shapes, block
):
  """Adds to the gradient `[S, D]` what `block` points contribute."""
  del zeros_ref  # The memory of gradient_ref.
  query, point, valid = _points(weights_ref, block)
  arguments, sizes, start = _point(
    locations_ref, weights_ref, query, point, valid, spatial_shapes, gradient_ref.dtype
  )
  cotangent = _load_rows(cotangent_ref, query, valid[:, None]).astype(gradient_ref.dtype)
  lane, _ = _lanes(gradient_ref)
  dim = gradient_ref.shape[-1]
  if dim < lane.size:  # Elsewhere this would hide from the compiler that lanes are contiguous.
    lane = jnp.minimum(lane, dim - 1)
  for weight, index in zip(*corners(*arguments, *sizes), strict=True):
    update = weight[:, None] * cotangent
    jax.ref.addupdate(gradient_ref, ((start + index)[:, None], lane), update)


def _compute_dtype(array) -> jnp.dtype:
  return jnp.promote_types(array.dtype, jnp.float32)


def _flat(locations: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns locations and attention weights with levels and points as one axis."""
  shape = (*weights.shape[:3], -1)
  return locations.reshape(*shape, 2), weights.reshape(shape)


def _lanes(ref) -> tuple[jax.Array, jax.Array]:
  """Returns indices of a row of `ref`, `[1, D filled to a power of two]`, and which are in it."""
  dim = ref.shape[-1]
  lane = jnp.arange(pl.next_power_of_2(dim), dtype=jnp.int32)[None, :]
  return lane, lane < dim


def _load_rows(ref, index: jax.Array, valid: jax.Array | bool = True) -> jax.Array:
  """Reads rows `[block]` of `ref` as `[block, D filled]`, zero in the filling."""
  lane, inside = _lanes(ref)
  return load(ref.at[index[:, None], lane], mask=valid & inside, other=0)


def _points(weights_ref, block: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns query and point of each row of this program, and whether there is such a row."""
  queries, points = weights_ref.shape
  row = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
  each = jnp.int32(points)
  return jax.lax.div(row, each), jax.lax.rem(row, each), row < queries * points


def _point(locations_ref, weights_ref, query, point, valid, spatial_shapes, dtype):
  """Reads points, and finds their levels.

  Args:
    locations_ref: `[Q, L * P, 2]`.
    weights_ref: `[Q, L * P]`.
    query: index of the query of each row of the block, `[block]`.
    point: its index among L * P, for each row or the same for all.
    valid: True for the rows to read; the others are 0.
    spatial_shapes: (height, width) of each level.
    dtype: dtype to compute in.

  Returns:
    x, y and attention weight, `[block]`; height and width of the level; its first position.
  """
  refs = (
    locations_ref.at[query, point, 0],
    locations_ref.at[query, point, 1],
    weights_ref.at[query, point],
  )
  arguments = [load(ref, mask=valid, other=0).astype(dtype) for ref in refs]
  of_level = weights_ref.shape[1] // len(spatial_shapes)
  height, width = spatial_shapes[0]
  found = height, width, 0
  start = height * width
  for level, (height, width) in enumerate(spatial_shapes[1:], 1):
    later = point >= level * of_level
    # Arrays: Pallas takes a weak number next to a scalar condition for a Boolean (jax 0.10.2).
    pairs = zip((height, width, start), found, strict=True)
    found = tuple(jnp.where(later, jnp.int32(new), jnp.int32(old)) for new, old in pairs)
    start += height * width
  return arguments, found[:2], found[2]
