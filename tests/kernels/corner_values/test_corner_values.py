"""Corner values: the kernel against the definition by gathers, and the definition by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.corner_values import MAX_INTEGER, corner_values, pallas_tpu

# Maps, rows of positions, positions of each: odd sides, several blocks, whole registers, one pixel.
SHAPES = {
  "odd": ((2, 13, 150), 3, 300),
  "whole": ((2, 32, 128), 2, 512),
  "pixel": ((1, 1, 1), 1, 5),
}


def positions(shape, number, count, *, in_order):
  """Positions in the map and one around it."""
  rng = np.random.default_rng(1)
  row, column = (rng.integers(-1, side, (number, count)) for side in shape[1:])
  if in_order:
    row = np.sort(row, axis=1)
  which = rng.integers(0, shape[0], number)
  return [jnp.asarray(x, jnp.int32) for x in (row, column, which)]


@functools.partial(jax.jit, static_argnames="implementation")
def run(maps, row, column, which, cotangent, *, implementation):
  """Values and gradient of the maps."""
  values, transpose = jax.vjp(
    lambda maps: corner_values(maps, row, column, which=which, implementation=implementation), maps
  )
  return values, transpose(cotangent)[0]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_values_are_exact_and_gradients_sums(name, in_order):
  shape, number, count = SHAPES[name]
  rng = np.random.default_rng(0)
  maps = rng.standard_normal(shape).astype(np.float32) * 10.0 ** rng.integers(-9, 9, shape)
  cotangent = rng.standard_normal((number, 4, count)).astype(np.float32)
  arguments = (
    maps.astype(np.float32),
    *positions(shape, number, count, in_order=in_order),
    cotangent,
  )
  expected, expected_gradient = run(*arguments, implementation="reference")
  values, gradient = run(*arguments, implementation="interpreted")
  np.testing.assert_array_equal(values, expected)
  # float32 sums of up to 3 x 300 numbers in another order; ten or fewer but for the one pixel.
  np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-5)


def test_integers_are_exact():
  shape, number, count = SHAPES["odd"]
  maps = np.random.default_rng(0).integers(0, MAX_INTEGER, shape, np.int32, endpoint=True)
  maps[0, 0, :2] = 0, MAX_INTEGER
  row, column, which = positions(shape, number, count, in_order=False)
  of = functools.partial(corner_values, jnp.asarray(maps), row, column, which=which)
  values = jax.jit(lambda: of(implementation="interpreted"))()
  assert values.dtype == jnp.int32
  np.testing.assert_array_equal(values, of())


def test_maps_beyond_the_memory_are_cut_into_bands(monkeypatch):
  monkeypatch.setattr(pallas_tpu, "RESIDENT_BYTES", 4 * 128 * 8)
  shape, number, count = (2, 13, 100), 2, 100
  maps = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  row, column, _ = positions(shape, number, count, in_order=True)
  cotangent = np.random.default_rng(2).standard_normal((number, 4, count)).astype(np.float32)
  values = jax.jit(functools.partial(pallas_tpu.forward, interpret=True))(maps, None, row, column)
  np.testing.assert_array_equal(values, corner_values(jnp.asarray(maps), row, column))
  backward = functools.partial(pallas_tpu.backward, shape[1:], interpret=True)
  gradient = jax.jit(backward)(row, column, cotangent)
  _, expected = run(maps, row, column, None, cotangent, implementation="reference")
  # float32 sums of a few numbers in another order.
  np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)


def test_definition_by_hand():
  maps = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
  row, column = jnp.array([[0, -1, 1]]), jnp.array([[0, -1, 0]])
  expected = [[[1, 0, 3], [2, 0, 4], [3, 0, 0], [4, 1, 0]]]
  np.testing.assert_array_equal(corner_values(maps, row, column), expected)


@pytest.mark.parametrize(
  ("maps", "keywords", "message"),
  [
    (jnp.zeros((1, 2, 2), jnp.float16), {}, "float32 or int32, got float16"),
    (jnp.zeros((1, 2, 2)), {"implementation": "cuda"}, "no implementation 'cuda'.*'reference'"),
    (jnp.zeros((3, 2, 2)), {}, "3 maps for 1 rows of positions; say which"),
  ],
)
def test_arguments_that_do_not_belong_together(maps, keywords, message):
  at = jnp.zeros((1, 4), jnp.int32)
  with pytest.raises(ValueError, match=message):
    corner_values(maps, at, at, **keywords)


@pytest.mark.parametrize(("platform", "kernel"), [("tpu", True), ("cpu", False), ("cuda", False)])
def test_the_platform_that_a_program_is_lowered_for_decides(platform, kernel):
  at = jnp.zeros((1, 4), jnp.int32)
  gradient = jax.jit(jax.grad(lambda maps: corner_values(maps, at, at).sum()))
  program = gradient.trace(jnp.zeros((1, 4, 4))).lower(lowering_platforms=(platform,)).as_text()
  assert ("tpu_custom_call" in program) is kernel
