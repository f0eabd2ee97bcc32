"""The public function of multi-scale deformable attention and the choice of its implementation."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from kernels.ms_deform_attn import pallas_tpu, per_shard, reference, xla

try:
  from kernels.ms_deform_attn import pallas_gpu
except ImportError as error:
  # A release of JAX without the backend that those kernels are written for, as it is announced.
  if error.name != "jax.experimental.pallas.triton":
    raise
  pallas_gpu = None

SpatialShapes = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Implementation:
  """One way to compute the function.

  Attributes:
    forward: value, spatial_shapes, sampling_locations, attention_weights -> output.
    backward: these and the cotangent of the output -> gradients of the three arrays.
    backend: the one whose kernels these are, as `jax.default_backend()` names it; they also take
      the keyword `interpret`. None for plain JAX, which runs anywhere.
  """

  forward: Callable[..., jax.Array]
  backward: Callable[..., tuple[jax.Array, ...]]
  backend: str | None = None


IMPLEMENTATIONS = {"pallas_tpu": Implementation(pallas_tpu.forward, pallas_tpu.backward, "tpu")}
if pallas_gpu:
  IMPLEMENTATIONS["pallas_gpu"] = Implementation(pallas_gpu.forward, pallas_gpu.backward, "gpu")
IMPLEMENTATIONS |= {
  "xla": Implementation(xla.forward, xla.backward),
  "reference": Implementation(reference.forward, reference.backward),
}

_interpret = False


@contextlib.contextmanager
def interpreted_pallas() -> Iterator[None]:
  """Within it, Pallas kernels run on any backend, interpreted step by step: slow, for tests."""
  global _interpret
  _interpret, before = True, _interpret
  try:
    yield
  finally:
    _interpret = before


def available() -> tuple[str, ...]:
  """Returns the names of the implementations that run here, best first, the reference last."""
  backend = jax.default_backend()
  return tuple(
    name
    for name, implementation in IMPLEMENTATIONS.items()
    if implementation.backend in (None, backend)
  )


def choose(implementation: str | None = None) -> str:
  """Returns the implementation that a call runs: the one named, or the best that runs here.

  Raises:
    ValueError: there is none of this name, or it cannot run here.
  """
  if implementation is None:
    return available()[0]
  if implementation == "pallas_gpu" and pallas_gpu is None:
    raise ValueError(
      "ms_deform_attn: implementation 'pallas_gpu' needs the Triton backend of Pallas, which jax "
      f"{jax.__version__} does not have; choose one of {available()}, None for the best of them, "
      "or an older jax"
    )
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"ms_deform_attn: no implementation {implementation!r}; choose one of {available()}, or "
      "None for the best of them"
    )
  if implementation not in available() and not _interpret:
    raise ValueError(
      f"ms_deform_attn: implementation {implementation!r} needs the backend "
      f"{IMPLEMENTATIONS[implementation].backend!r}, and JAX runs on {jax.default_backend()!r} "
      f"here; choose one of {available()}, or None for the best of them"
    )
  return implementation


def ms_deform_attn(
  value: jax.Array,
  spatial_shapes: SpatialShapes,
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  *,
  implementation: str | None = None,
) -> jax.Array:
  """Attends with each query to a few sampled points of several feature maps.

  For each query and head, sum over levels and points of the attention weight times the value
  sampled bilinearly at the location, zero outside the map (Zhu et al., "Deformable DETR",
  arXiv:2010.04159, equation 3; coordinates as torch's `grid_sample` with `align_corners=False`).
  Differentiable in all three arrays.

  Args:
    value: `[B, S, H, D]` float; the maps of all levels one after another, each row by row, in
      the order of `spatial_shapes`.
    spatial_shapes: (height, width) of each level, in Python integers; S is the sum of the areas.
    sampling_locations: `[B, Q, H, L, P, 2]` float, (x, y) in units of the level's width and
      height: 0 and 1 are the outer edges of the map.
    attention_weights: `[B, Q, H, L, P]` float, used as given (not normalised here).
    implementation: name of one of `available()`, or None for the best on the platform that the
      program is compiled for.

  Returns:
    `[B, Q, H * D]` in the dtype of `value`, accumulated in float32 or wider.

  Raises:
    ValueError: the shapes or dtypes do not belong together, or there is no such implementation
      here.
  """
  shapes = _check(value, spatial_shapes, sampling_locations, attention_weights)
  if implementation is not None:
    choose(implementation)
  if value.size == 0 or attention_weights.size == 0:
    batch, queries, heads = attention_weights.shape[:3]
    return jnp.zeros((batch, queries, heads * value.shape[-1]), value.dtype)
  how = _How(implementation, shapes, per_shard.current(), _interpret)
  return _attend(how, value, sampling_locations, attention_weights)


@dataclasses.dataclass(frozen=True)
class _How:
  """What a traced call depends on beside its arrays."""

  implementation: str | None
  spatial_shapes: SpatialShapes
  shards: per_shard.Shards | None
  interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how: _How, *arrays: jax.Array) -> jax.Array:
  return _run(how, "forward", arrays)


def _attend_forward(how: _How, *arrays: jax.Array):
  return _attend(how, *arrays), arrays


def _attend_backward(how: _How, arrays: tuple[jax.Array, ...], cotangent: jax.Array):
  return _run(how, "backward", (*arrays, cotangent))


_attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(how: _How, pass_: str, arrays: tuple[jax.Array, ...]):
  """Runs the forward or backward pass of an implementation."""

  def of(name: str) -> Callable:
    implementation = IMPLEMENTATIONS[name]
    run = getattr(implementation, pass_)
    if implementation.backend is None:
      return lambda value, *arrays: run(value, how.spatial_shapes, *arrays)

    def kernel(value, *arrays):
      return run(value, how.spatial_shapes, *arrays, interpret=how.interpret)

    return per_shard.per_shard(kernel, how.shards)

  if how.implementation is not None:
    return of(how.implementation)(*arrays)
  # Where a program is traced is not always where it will run.
  kernels = {"tpu": of("pallas_tpu")}
  if pallas_gpu:
    kernels["cuda"] = of("pallas_gpu")
  return jax.lax.platform_dependent(*arrays, **kernels, default=of("xla"))


def _check(value, spatial_shapes, sampling_locations, attention_weights) -> SpatialShapes:
  """Returns `spatial_shapes` as plain tuples, if all arguments belong together."""
  arrays = {
    "value": (value, "[B, S, H, D]"),
    "sampling_locations": (sampling_locations, "[B, Q, H, L, P, 2]"),
    "attention_weights": (attention_weights, "[B, Q, H, L, P]"),
  }
  for name, (array, layout) in arrays.items():
    if array.ndim != layout.count(",") + 1:
      raise ValueError(f"ms_deform_attn: {name} must be {layout}, got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"ms_deform_attn: {name} must be floating point, got {array.dtype}")
  if isinstance(spatial_shapes, jax.Array):
    raise ValueError(
      "ms_deform_attn: spatial_shapes must be Python integers ((height, width), ...), which the "
      f"compiled program is made for, got an array of shape {spatial_shapes.shape}"
    )
  shapes = tuple((int(height), int(width)) for height, width in spatial_shapes)
  if not shapes or any(height < 1 or width < 1 for height, width in shapes):
    raise ValueError(f"ms_deform_attn: spatial_shapes must be positive sizes, got {shapes}")
  batch, length, heads, _ = value.shape
  area = sum(math.prod(shape) for shape in shapes)
  if length != area:
    raise ValueError(
      f"ms_deform_attn: value has {length} positions (axis 1), spatial_shapes {shapes} have {area}"
    )
  expected = (batch, attention_weights.shape[1], heads, len(shapes), attention_weights.shape[4])
  if attention_weights.shape != expected:
    raise ValueError(
      f"ms_deform_attn: attention_weights must be [B, Q, H, L, P] = {expected} for value "
      f"{value.shape} and {len(shapes)} levels, got {attention_weights.shape}"
    )
  if sampling_locations.shape != (*expected, 2):
    raise ValueError(
      f"ms_deform_attn: sampling_locations must be [B, Q, H, L, P, 2] = {(*expected, 2)}, "
      f"got {sampling_locations.shape}"
    )
  return shapes
