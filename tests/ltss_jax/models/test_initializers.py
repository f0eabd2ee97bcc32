"""Random weights, with JAX's own initialisers as the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.models import initializers

JUDGES = {
  "he_normal_fan_out": jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
  "uniform_fan_in": jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
  "xavier_uniform": jax.nn.initializers.xavier_uniform(),
  "truncated_normal": jax.nn.initializers.truncated_normal(0.02),
}


def assert_same_weights(initializer, judge, shape):
  """Bit for bit: drawn for a model, drawn within a traced function, and by the judge."""
  key = jax.random.key(sum(shape))
  expected = jax.jit(judge, static_argnums=1)(key, shape)
  drawn = initializer(key, shape, jnp.float32)
  assert isinstance(drawn, np.ndarray) and drawn.dtype == np.float32
  np.testing.assert_array_equal(drawn, expected)
  traced = jax.jit(initializer, static_argnums=1)(key, shape)
  np.testing.assert_array_equal(traced, expected)


# The sizes that are drawn are 1024, 4096, ...: within one, just one, and beyond.
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 32, 32), (1025, 1), (2, 4097)])
@pytest.mark.parametrize("name", JUDGES)
def test_weights_are_those_of_jax(name, shape):
  assert_same_weights(getattr(initializers, name), JUDGES[name], shape)


@pytest.mark.parametrize("shape", [(), (5,), (40, 30)])
def test_weights_of_any_shape_are_those_of_jax(shape):
  def uniform(key, shape):
    return jax.random.uniform(key, shape, minval=-(9**-0.5), maxval=9**-0.5)

  assert_same_weights(initializers.torch_uniform(9), uniform, shape)
  assert_same_weights(initializers.normal(0.25), jax.nn.initializers.normal(0.25), shape)


def test_leaves_of_a_size_share_a_program():
  draw = initializers.normal(1.0)
  draw(jax.random.key(0), (5, 5))
  programs = initializers._flat._cache_size()
  for shape in ((7,), (3, 3, 8, 8), (1024,)):
    initializers.normal(3.0)(jax.random.key(1), shape)
  assert initializers._flat._cache_size() == programs
