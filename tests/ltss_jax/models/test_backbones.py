"""What all backbones have in common, and what `build` refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import backbones, functional, swin, vit
from tests import recipes

SMALL = ("resnet_small", "swin_mini", "vit_mini")


def model(name, **changes):
  config = recipes.backbone(name, **changes)
  return functional.functional(lambda rngs: backbones.build(config, rngs=rngs))


@pytest.mark.parametrize("name", SMALL)
def test_features_lie_at_strides_4_to_32_and_have_the_stated_channels(name):
  config = recipes.backbone(name)
  module = nnx.eval_shape(lambda: backbones.build(config, rngs=nnx.Rngs(0)))
  net = model(name)
  abstract = jax.eval_shape(net.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
  features, _ = jax.eval_shape(functools.partial(net.apply, train=False), *abstract, x)
  expected = {
    f"res{i + 2}": (2, 96 // stride, 160 // stride, channels)
    for i, (stride, channels) in enumerate(zip((4, 8, 16, 32), module.out_channels, strict=True))
  }
  assert {name: f.shape for name, f in features.items()} == expected


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
@pytest.mark.parametrize("remat", [False, True])
def test_bfloat16_features_of_transformers_are_float32(name, remat):
  net = model(name, dtype="bfloat16", remat=remat)
  abstract = jax.eval_shape(net.init, jax.random.key(0))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract))
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  apply = lambda *args: net.apply(*args, train=True, rng=jax.random.key(0))[0]  # noqa: E731
  features = jax.eval_shape(apply, *abstract, x)
  assert all(f.dtype == jnp.float32 for f in features.values())
  operations = str(jax.make_jaxpr(apply)(*abstract, x)).splitlines()
  assert any("dot_general" in line and ":bf16" in line for line in operations)


def test_published_rates_of_stochastic_depth_rise_linearly():
  def rates(name, **changes):
    config = recipes.backbone(name, **changes)
    return nnx.eval_shape(lambda: backbones.build(config, rngs=nnx.Rngs(0))).drop_paths

  np.testing.assert_allclose(rates("swin_mini"), np.linspace(0, 0.3, 6))
  np.testing.assert_allclose(rates("vit_mini"), np.linspace(0, 0.1, 4))
  np.testing.assert_allclose(rates("vit_mini", drop_path=0.6), [0, 0.2, 0.4, 0.6])
  assert not any(rates("swin_mini", drop_path=0.0))


@pytest.mark.parametrize(
  "block",
  [
    lambda rngs: swin.Block(
      8, 2, window=4, shift=2, drop_path=0.5, dtype=jnp.dtype("float32"), rngs=rngs
    ),
    lambda rngs: vit.Block(8, 2, window=3, drop_path=0.5, dtype=jnp.dtype("float32"), rngs=rngs),
  ],
  ids=["swin", "vit"],
)
def test_blocks_drop_both_branches_of_single_images(block):
  block = block(nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (64, 4, 5, 8))
  full = block(x, key=None)
  dropped = jax.jit(lambda x, key: block(x, key=key))(x, jax.random.key(1))
  untouched = np.array([np.array_equal(a, b) for a, b in zip(dropped, x, strict=True)])
  # A quarter of the images loses both branches: 16 of 64, standard deviation 3.5.
  assert 4 <= untouched.sum() <= 30
  assert not any(np.array_equal(a, b) for a, b in zip(full, x, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_stochastic_depth_in_training_and_remat(name):
  x = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))

  def run(remat):
    net = model(name, remat=remat, drop_path=0.5)
    params, stats = net.init(jax.random.key(0))

    def loss(params, key):
      features, _ = net.apply(params, stats, x, train=True, rng=key)
      return sum((f**3).mean() for f in features.values()), features

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return net, params, stats, [step(params, jax.random.key(seed)) for seed in (0, 0, 1)]

  net, params, stats, (first, again, other) = run(remat=False)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first[0][1]["res5"], other[0][1]["res5"])
  total = jax.tree.map(lambda a, b: np.abs(a).max() + np.abs(b).max(), first[1], other[1])
  assert all(value > 0 for value in jax.tree.leaves(total))
  evaluated, _ = net.apply(params, stats, x, train=False)
  still, _ = model(name, drop_path=0.0).apply(params, stats, x, train=True)
  jax.tree.map(np.testing.assert_array_equal, evaluated, still)

  def close(a, b):
    # The recomputed values may add up in another order.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(a).max()))

  jax.tree.map(close, first, run(remat=True)[-1][0])


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (dict(name="resnet18"), r"backbone 'resnet18': choose one of \('resnet50', .*'vit_mini'\)"),
    (dict(norm="group_norm"), r"norm='group_norm': choose one of"),
    (dict(name="swin_t", res5_dilation=2), "res5_dilation=2: swin_t has no dilation, set 1"),
    (dict(name="swin_t", drop_path=1.0), r"drop_path=1\.0: give a rate in \[0, 1\), or -1"),
  ],
)
def test_values_that_are_not_offered_are_refused(config, message):
  with pytest.raises(ValueError, match=message):
    backbones.build(recipes.backbone(**{"name": "resnet50"} | config), rngs=nnx.Rngs(0))
