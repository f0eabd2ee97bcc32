"""Layers against Flax and torch's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import layers


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 4)])
def test_max_pool_is_flaxs_in_value_and_gradient(size):
  x = jax.random.normal(jax.random.key(0), (2, *size, 3))
  judge = lambda x: nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # noqa: E731
  np.testing.assert_array_equal(layers.max_pool_3x3_stride_2(x), judge(x))
  gradients = [
    jax.grad(lambda x, f=f: (f(x) ** 3).sum())(x) for f in (judge, layers.max_pool_3x3_stride_2)
  ]
  # Up to four windows add up, in another order.
  np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_bilinear_resize_by_hand_and_without_anti_aliasing():
  x = jnp.array([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 4, 1)
  up = layers.resize_bilinear(x, 1, 8)[0, 0, :, 0]
  np.testing.assert_allclose(up, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
  down = layers.resize_bilinear(jnp.array([0.0, 9, 1, 1, 9, 0]).reshape(1, 1, 6, 1), 1, 2)
  np.testing.assert_allclose(down[0, 0, :, 0], [9, 9], atol=1e-6)  # an average would be lower


def test_conv_norm_updates_running_averages_with_momentum_09():
  layer = layers.ConvNorm(2, 4, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 4, 4, 2))
  y = layer.conv(x)
  out = layer(x, train=True)
  np.testing.assert_allclose(out.mean((0, 1, 2)), np.zeros(4), atol=1e-5)
  np.testing.assert_allclose(layer.norm.mean[...], 0.1 * y.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(layer.norm.var[...], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)
  inference = layer(x, train=False)
  expected = (y - layer.norm.mean[...]) / jnp.sqrt(layer.norm.var[...] + 1e-5)
  np.testing.assert_allclose(inference, expected, rtol=1e-4, atol=1e-5)
