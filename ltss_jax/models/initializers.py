"""Random weights that are there without compiling a program for each model.

A program that draws every leaf of a model takes far longer to compile than to run. Called with a
key that is an array, these initialisers draw a leaf as the first elements of a flat array of one of
a few sizes, so that all leaves of all models share a dozen small programs, and return it in host
memory. The bits stay those of a draw of the leaf's own shape: an element depends on the key and on
its place in the flat array alone (`jax_threefry_partitionable`). With a traced key they draw the
leaf's shape.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Initializer = Callable[..., jax.Array | np.ndarray]
_Draw = Callable[[jax.Array, Sequence[int], np.float32], jax.Array]

# The sizes are 4^5, 4^6, ...: at most four times the numbers that are needed.
_SMALLEST = 4**5


def _normal(key: jax.Array, shape: Sequence[int], deviation: np.float32) -> jax.Array:
  return jax.random.normal(key, shape) * deviation


def _truncated_normal(key: jax.Array, shape: Sequence[int], deviation: np.float32) -> jax.Array:
  return jax.random.truncated_normal(key, -2, 2, shape) * deviation


def _symmetric(key: jax.Array, shape: Sequence[int], bound: np.float32) -> jax.Array:
  return jax.random.uniform(key, shape, minval=-1) * bound


def _between(key: jax.Array, shape: Sequence[int], bound: np.float32) -> jax.Array:
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _flat(draw: _Draw, key: jax.Array, size: int, scale: np.float32) -> jax.Array:
  return draw(key, (size,), scale)


def _initializer(draw: _Draw, scale_of: Callable[[Sequence[int]], float]) -> Initializer:
  """(key, shape) -> weights [*shape], float32; `scale_of` maps a shape to the scale of its draw.

  What else nnx hands over, the type and the sharding of parameters, is the same for all of them.
  """

  def init(key: jax.Array, shape: Sequence[int], *_: Any, **__: Any) -> jax.Array | np.ndarray:
    scale, count = np.float32(scale_of(shape)), math.prod(shape)
    if isinstance(key, jax.core.Tracer):
      return draw(key, shape, scale)
    size = _SMALLEST
    while size < count:
      size *= 4
    drawn = np.asarray(_flat(draw, key, size, scale))
    return drawn[:count].reshape(shape).copy()  # A view would keep all that was drawn.

  return init


def _fan_in(shape: Sequence[int]) -> int:
  """Inputs that an output sums, of kernels [..., in, out]."""
  return math.prod(shape[:-1])


def _fan_out(shape: Sequence[int]) -> int:
  return math.prod(shape[:-2]) * shape[-1]


def normal(deviation: float) -> Initializer:
  """N(0, deviation^2)."""
  return _initializer(_normal, lambda _: deviation)


def torch_uniform(fan_in: int) -> Initializer:
  """U(+-1 / sqrt(fan_in)): what torch.nn.Linear draws its weight and its bias from."""
  return _initializer(_between, lambda _: fan_in**-0.5)


def _uniform_bound(fan: float) -> np.float32:
  return np.sqrt(np.float32(3) * np.float32(1 / fan))


# The weight initialisers of the published models: N(0, 2 / fan_out), ...
he_normal_fan_out = _initializer(_normal, lambda shape: np.sqrt(np.float32(2 / _fan_out(shape))))
# ... U(+-sqrt(3 / fan_in)) ...
uniform_fan_in = _initializer(_symmetric, lambda shape: _uniform_bound(_fan_in(shape)))
# ... U(+-sqrt(6 / (fan_in + fan_out))) ...
xavier_uniform = _initializer(
  _symmetric, lambda shape: _uniform_bound((_fan_in(shape) + _fan_out(shape)) / 2)
)
# ... and that of linear layers and tables of transformers: N(0, 0.02^2), cut beyond 2 deviations.
truncated_normal = _initializer(_truncated_normal, lambda _: 0.02)
