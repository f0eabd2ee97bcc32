"""Layers against Flax and torch's definitions."""

import functools

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
  np.testing.assert_allclose(layer.norm.var[...], 0.9 + 0.1 * y.var((0, 1, 2), ddof=1), rtol=1e-4)
  inference = layer(x, train=False)
  expected = (y - layer.norm.mean[...]) / jnp.sqrt(layer.norm.var[...] + 1e-5)
  np.testing.assert_allclose(inference, expected, rtol=1e-4, atol=1e-5)


def test_running_variance_is_unbiased_and_normalisation_is_not():
  # Of 1, 3, 5, 7 the mean is 4, the variance 20 / 4 = 5, and without bias 20 / 3.
  x = jnp.array([1.0, 3, 5, 7]).reshape(2, 1, 2, 1)
  norm = layers.BatchNorm(1, dtype=jnp.float32, rngs=nnx.Rngs(0))
  out = norm(x, train=True)
  np.testing.assert_allclose(out, (x - 4) / np.sqrt(5 + 1e-5), rtol=1e-6)
  np.testing.assert_allclose(norm.mean[...], [0.1 * 4], rtol=1e-6)
  np.testing.assert_allclose(norm.var[...], [0.9 + 0.1 * 20 / 3], rtol=1e-6)
  norm(x[:1, :, :1], train=False)  # a single value of each channel is no matter here ...
  with pytest.raises(ValueError, match=r"one value of each channel .*\(1, 1, 1, 1\).*larger batch"):
    norm(x[:1, :, :1], train=True)  # ... and has no variance here


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_is_flaxs_but_for_the_running_variance(dtype):
  x = jax.random.normal(jax.random.key(0), (2, 5, 7, 6), dtype) * 3 + 1
  flaxs = functools.partial(nnx.BatchNorm, momentum=0.9)
  ours, judge = (norm(6, rngs=nnx.Rngs(0), dtype=dtype) for norm in (layers.BatchNorm, flaxs))
  for norm in (ours, judge):
    norm.scale[...] = jnp.linspace(0.5, 2, 6)
    norm.bias[...] = jnp.linspace(-1, 1, 6)
  mine, theirs = ours(x, train=True), judge(x, use_running_average=False)
  assert mine.dtype == theirs.dtype == dtype
  np.testing.assert_array_equal(mine, theirs)
  np.testing.assert_array_equal(ours.mean[...], judge.mean[...])


def test_batch_norm_is_torchs_over_steps():
  torch = pytest.importorskip("torch")
  judge = torch.nn.BatchNorm2d(3)
  norm = layers.BatchNorm(3, dtype=jnp.float32, rngs=nnx.Rngs(0))
  for step, shape in enumerate([(2, 1, 1, 3), (1, 2, 3, 3), (4, 2, 2, 3)]):
    x = 5 + 3 * np.asarray(jax.random.normal(jax.random.key(step), shape))
    expected = judge(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    # Flax takes E[x^2] - E[x]^2, which here cancels one of float32's seven digits.
    np.testing.assert_allclose(norm(x, train=True), expected.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], judge.running_mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], judge.running_var, rtol=1e-5)
  judge.eval()
  expected = judge(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
  np.testing.assert_allclose(norm(x, train=False), expected.detach(), rtol=1e-4, atol=1e-5)


def test_frozen_batch_norm_is_batch_norm_with_constant_statistics():
  key = jax.random.split(jax.random.key(0), 5)
  x = jax.random.normal(key[0], (2, 3, 4, 8))
  frozen = layers.FrozenBatchNorm(8, dtype=jnp.float32)
  np.testing.assert_array_equal(frozen(x), x)
  norm = nnx.BatchNorm(8, epsilon=1e-5, rngs=nnx.Rngs(0))
  for name, k in zip(("scale", "bias", "mean", "var"), key[1:], strict=True):
    value = jax.random.uniform(k, (8,), minval=0.5, maxval=1.5)
    setattr(norm, name, type(getattr(norm, name))(value))
    setattr(frozen, name, layers.Frozen(value))
  # Round-off: here the scale is multiplied first.
  np.testing.assert_allclose(frozen(x), norm(x, use_running_average=True), rtol=1e-5, atol=1e-5)
  _, params, stats = nnx.split(frozen, nnx.Param, nnx.BatchStat)
  assert not params
  assert set(stats) == {"scale", "bias", "mean", "var"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_1x1_convolution_and_linear_are_flaxs_in_value_and_gradient(stride, bias):
  x = jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
  shape = dict(use_bias=bias, dtype=jnp.float32, rngs=nnx.Rngs(0))
  layer = layers.Conv(8, 4, (1, 1), strides=stride, **shape)
  pairs = [(layer, lambda x: nnx.Conv.__call__(layer, x))]
  if stride == 1:
    linear = layers.Linear(8, 4, **shape)
    pairs.append((linear, lambda x: nnx.Linear.__call__(linear, x)))
  for module, judge in pairs:
    # Round-off of sums over 8 channels, 60 positions in the weight gradient.
    np.testing.assert_allclose(module(x), judge(x), atol=1e-6)
    by_kernel = []
    for f in (type(module).__call__, type(module).__mro__[1].__call__):
      gradient = nnx.grad(lambda m, f=f: (f(m, x) ** 2).sum())(module)
      by_kernel.append(gradient["kernel"][...])
    np.testing.assert_allclose(*by_kernel, rtol=1e-5, atol=1e-4)


def test_drop_path_drops_whole_images_and_keeps_the_expectation():
  x = jnp.ones((4000, 2, 3))
  assert layers.drop_path(x, 0.25, None) is x
  assert layers.drop_path(x, 0.0, jax.random.key(0)) is x
  y = layers.drop_path(x, 0.25, jax.random.key(0))
  per_image = np.asarray(y[:, 0, 0])
  np.testing.assert_array_equal(y, np.broadcast_to(per_image[:, None, None], y.shape))
  np.testing.assert_allclose(np.unique(per_image), [0, 1 / 0.75], rtol=1e-6)
  # Four standard errors: 4 * sqrt(0.25 / 0.75 / 4000).
  assert per_image.mean() == pytest.approx(1, abs=0.037)
  kept = jax.grad(lambda x: layers.drop_path(x, 0.25, jax.random.key(0)).sum())(x)
  np.testing.assert_array_equal(kept, y)


def test_drop_path_keys_exist_in_training_only_and_need_rngs():
  rngs = nnx.Rngs(dropout=0)
  assert layers.drop_path_keys((0.0, 0.1), False, None) == [None, None]
  assert layers.drop_path_keys((0.0, 0.0), True, None) == [None, None]
  keys = layers.drop_path_keys((0.0, 0.1), True, rngs)
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 2
  with pytest.raises(ValueError, match=r"drop_path=0\.1 needs rngs in training"):
    layers.drop_path_keys((0.0, 0.1), True, None)


def test_windows_pad_with_zeros_and_come_back():
  x = jnp.arange(1.0, 2 * 5 * 7 * 3 + 1).reshape(2, 5, 7, 3)
  windows = layers.to_windows(x, 3)  # 2 x 3 windows
  assert windows.shape == (2, 6, 9, 3)
  np.testing.assert_array_equal(windows[0, 1, 5], x[0, 1, 5])  # row 1, column 2 of the second
  np.testing.assert_array_equal(windows[1, 5].reshape(3, 3, 3)[2:], np.zeros((1, 3, 3)))
  np.testing.assert_array_equal(windows[1, 5].reshape(3, 3, 3)[:, 1:], np.zeros((3, 2, 3)))
  np.testing.assert_array_equal(layers.from_windows(windows, 3, 5, 7), x)


def test_attention_is_jaxs():
  qkv = jax.random.normal(jax.random.key(0), (2, 6, 3 * 8))
  bias = jax.random.normal(jax.random.key(1), (2, 6, 6))
  out = layers.attend(*layers.split_heads(qkv, 2), bias)
  query, key, value = (x.reshape(2, 6, 2, 4) for x in jnp.split(qkv, 3, -1))
  judge = jax.nn.dot_product_attention(query, key, value, bias[None])
  np.testing.assert_allclose(out, judge.reshape(2, 6, 8), atol=1e-5)  # sums of 6 products


def test_remat_changes_neither_values_nor_gradients_but_keeps_less():
  mlp = layers.Mlp(8, 32, dtype=jnp.float32, rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(mlp)
  x = jax.random.normal(jax.random.key(0), (4, 8))

  def loss(params, x, remat):
    block = nnx.merge(graphdef, params)
    return (layers.call_block(block, x, remat=remat) ** 2).sum()

  plain, remat = (
    jax.value_and_grad(loss, argnums=(0, 1))(params, x, remat) for remat in (False, True)
  )
  # The compiler may fuse the recomputed values otherwise.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, remat)
  jaxprs = [str(jax.make_jaxpr(jax.grad(loss), static_argnums=2)(params, x, r)) for r in (0, 1)]
  assert ["remat" in text or "checkpoint" in text for text in jaxprs] == [False, True]
