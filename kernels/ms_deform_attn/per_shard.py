"""Lets kernels, which the compiler cannot partition, run on each device's own images and heads.

What the compiler offers for this, `custom_partitioning`, does not exist for TPUs (libtpu has no
emitter for it). So the caller says over which axes of the mesh images and heads are divided.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Shards:
  """Axes of a mesh over which images and heads are divided; None for not at all."""

  mesh: Mesh
  batch_axis: str | tuple[str, ...] | None
  head_axis: str | None


_shards: Shards | None = None


@contextlib.contextmanager
def sharded(
  mesh: Mesh, *, batch_axis: str | tuple[str, ...] | None, head_axis: str | None = None
) -> Iterator[None]:
  """Within it, Pallas kernels traced into a jitted program run on each device's own part.

  For programs whose arrays the compiler divides over a mesh (`jax.jit` with shardings). Not needed
  inside a `jax.shard_map` nor with one device, and without effect on implementations in plain JAX,
  which the compiler divides by itself. Gradients are taken care of wherever they are traced.

  Args:
    mesh: mesh of the program.
    batch_axis: name of its axis over which images are divided, names of several such, or None.
    head_axis: name of the axis over which heads are divided, or None.
  """
  global _shards
  _shards, before = Shards(mesh, batch_axis, head_axis), _shards
  try:
    yield
  finally:
    _shards = before


def current() -> Shards | None:
  """Returns what the innermost `sharded` says."""
  return _shards


def per_shard(function: Callable, shards: Shards | None) -> Callable:
  """Runs a function of arrays, all with images on axis 0 and heads on axis 2, on each shard."""
  if shards is None:
    return function
  spec = PartitionSpec(shards.batch_axis, None, shards.head_axis)
  # Kernels have no rule for the check of what varies over devices.
  return jax.shard_map(function, mesh=shards.mesh, in_specs=spec, out_specs=spec, check_vma=False)
