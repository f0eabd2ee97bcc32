"""Counts the operations of a traced function's matrix products, whatever it is compiled for."""

import math

from jax.extend import core

# Primitives whose operands are a device's own part, so that every device runs the body.
_PER_DEVICE = ("shard_map",)


def matrix_flops(jaxpr: core.Jaxpr, devices: int = 1) -> int:
  """Multiplications and additions of all matrix products and convolutions, over all devices.

  What is recomputed for a backward pass counts as often as it runs, a loop of unknown length and
  each kernel's body once, of branches the largest.

  Args:
    jaxpr: traced function, of global shapes.
    devices: number of devices that run the body of a `shard_map`.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      sides = equation.invars[0].aval.shape
      total += 2 * equation.outvars[0].aval.size * math.prod(sides[axis] for axis in contracted)
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
      total += 2 * equation.outvars[0].aval.size * math.prod(kernel) // outputs
    else:
      bodies = [matrix_flops(body, devices) for body in core.jaxprs_in_params(equation.params)]
      times = devices if name in _PER_DEVICE else equation.params.get("length", 1)
      total += times * (max(bodies, default=0) if name == "cond" else sum(bodies))
  return total
