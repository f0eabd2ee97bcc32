"""The programs that are compiled for absent chips, whatever the chip."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from kernels.ms_deform_attn.api import Implementation
from kernels.ms_deform_attn.arg_specs import ArgSpec

# Of the table, for every chip; the modules of the chips add their own.
COLUMNS = ("implementation", "pass", "shape", "dtype", "HBM MB", "temporaries MB")

# A row of the table: figures by the names of their columns.
Row = dict[str, object]


def programs(
  name: str,
  implementation: Implementation,
  shape: str,
  spec: ArgSpec,
  dtype: str,
  device: jax.Device,
) -> Iterator[tuple[Row, Callable, list[jax.ShapeDtypeStruct]]]:
  """Lists forward and backward pass of an implementation.

  Args:
    name: name for the table.
    implementation: name of the compiled implementation.
    shape: name of the shapes.
    spec: the shapes.
    dtype: dtype of the values.
    device: device to compile for.

  Yields:
    (the beginning of the row of the table, function of arrays, abstract arguments).
  """
  arguments = abstract_arguments(spec, dtype, jax.sharding.SingleDeviceSharding(device))
  for pass_, function, count in (
    ("forward", implementation.forward, 3),
    ("backward", implementation.backward, 4),
  ):
    row = {"implementation": name, "pass": pass_, "shape": shape, "dtype": dtype}
    yield row, _on(function, spec.spatial_shapes), arguments[:count]


def _on(function: Callable, spatial_shapes) -> Callable:
  return lambda value, *arrays: function(value, spatial_shapes, *arrays)


def abstract_arguments(
  spec: ArgSpec, dtype: str, sharding: jax.sharding.Sharding
) -> list[jax.ShapeDtypeStruct]:
  """Describes value, locations, weights and the output's cotangent, to compile for.

  Args:
    spec: the shapes.
    dtype: dtype of value and cotangent; the others are float32.
    sharding: sharding of all four, which says for what device to compile.
  """
  points = (spec.batch, spec.length, spec.heads, len(spec.spatial_shapes), spec.points)
  value = (spec.batch, spec.length, spec.heads, spec.dim)
  return [
    jax.ShapeDtypeStruct(shape, jnp.dtype(of), sharding=sharding)
    for shape, of in (
      (value, dtype),
      ((*points, 2), "float32"),
      (points, "float32"),
      ((*value[:2], spec.heads * spec.dim), dtype),
    )
  ]
