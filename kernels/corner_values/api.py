"""The public function `corner_values` and the choice of its implementation."""

import functools

import jax
import jax.numpy as jnp

from kernels.corner_values import pallas_tpu, reference

IMPLEMENTATIONS = ("pallas_tpu", "interpreted", "reference")


def corner_values(
  maps: jax.Array,
  row: jax.Array,
  column: jax.Array,
  *,
  which: jax.Array | None = None,
  implementation: str | None = None,
) -> jax.Array:
  """Reads the 2 x 2 entries of a map at each of many positions, 0 outside of it, exactly.

  Differentiable in the maps where they are float32.

  Args:
    maps: `[M, H, W]` float32, or int32 from 0 to `MAX_INTEGER`.
    row: `[N, K]` int32, upper row of the entries. Best sorted: blocks of neighbours then touch few
      rows of a map.
    column: `[N, K]` int32, left column of the entries.
    which: `[N]` int32, the map of each row of positions; None: each has its own, M = N.
    implementation: one of `IMPLEMENTATIONS`; None takes "pallas_tpu" in a program that is compiled
      for TPUs and "reference" in others. "interpreted" is the first, slowly, on any platform.

  Returns:
    `[N, 4, K]` in the dtype of the maps: upper left, upper right, lower left, lower right.

  Raises:
    ValueError: no such dtype or implementation, or M is not N and nothing says which maps.
  """
  if maps.dtype not in (jnp.float32, jnp.int32):
    raise ValueError(f"corner_values: maps must be float32 or int32, got {maps.dtype}")
  if implementation not in (None, *IMPLEMENTATIONS):
    raise ValueError(
      f"corner_values: no implementation {implementation!r}; choose from {IMPLEMENTATIONS}, or None"
    )
  if which is None and len(maps) != len(row):
    raise ValueError(f"corner_values: {len(maps)} maps for {len(row)} rows of positions; say which")
  if maps.dtype == jnp.int32:
    return _forward(implementation, maps, which, row, column)
  return _differentiable(implementation, maps, which, row, column)


def _forward(implementation, *arrays):
  kernels = {
    "pallas_tpu": pallas_tpu.forward,
    "interpreted": functools.partial(pallas_tpu.forward, interpret=True),
    "reference": reference.forward,
  }
  return _run(kernels, implementation, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(implementation, *arrays):
  return _forward(implementation, *arrays)


def _differentiable_forward(implementation, *arrays):
  return _forward(implementation, *arrays), arrays


def _differentiable_backward(implementation, arrays, cotangent):
  def kernel(maps, which, row, column, cotangent, **options):
    gradients = pallas_tpu.backward(maps.shape[1:], row, column, cotangent, **options)
    return gradients if which is None else jnp.zeros_like(maps).at[which].add(gradients)

  def by_scatter(maps, *positions_and_cotangent):
    *positions, cotangent = positions_and_cotangent
    return jax.vjp(lambda maps: reference.forward(maps, *positions), maps)[1](cotangent)[0]

  kernels = {
    "pallas_tpu": kernel,
    "interpreted": functools.partial(kernel, interpret=True),
    "reference": by_scatter,
  }
  return _run(kernels, implementation, (*arrays, cotangent)), None, None, None


_differentiable.defvjp(_differentiable_forward, _differentiable_backward)


def _run(kernels, implementation, arrays):
  if implementation is not None:
    return kernels[implementation](*arrays)
  # Where a program is traced is not always where it will run.
  return jax.lax.platform_dependent(
    *arrays, tpu=kernels["pallas_tpu"], default=kernels["reference"]
  )
