"""ResNet with frozen and with trained batch norm (its golden values: DeepLabV3+, Mask2Former)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.models import backbones, functional
from tests import recipes


def model(name="resnet_small", **changes):
  config = recipes.backbone(name, **changes)
  return functional.functional(lambda rngs: backbones.build(config, rngs=rngs))


def paths(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@functools.cache
def gradients(**changes):
  """(loss, (features, new stats)), gradients, stats of one training pass in resnet_small."""
  net = model(**changes)
  params, stats = net.init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (2, 33, 64, 3))

  def loss(params):
    features, new_stats = net.apply(params, stats, x, train=True)
    return sum((f.astype(jnp.float32) ** 2).mean() for f in features.values()), (
      features,
      new_stats,
    )

  return *jax.jit(jax.value_and_grad(loss, has_aux=True))(params), stats


def test_frozen_norms_are_constants_and_every_convolution_is_trained():
  (_, (features, new_stats)), grads, stats = gradients()
  assert {path.rsplit("/", 1)[1] for path in paths(grads)} == {"kernel"}
  norms = {path.rsplit("/", 2)[1] for path in paths(stats)}
  assert norms == {"norm"}
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
  jax.tree.map(np.testing.assert_array_equal, stats, new_stats)
  shapes = {name: f.shape for name, f in features.items()}
  assert shapes == {
    "res2": (2, 9, 16, 32),
    "res3": (2, 5, 8, 64),
    "res4": (2, 3, 4, 128),
    "res5": (2, 2, 2, 256),
  }


def test_both_norms_have_the_same_paths_and_shapes():
  nets = [model("resnet50", norm=norm) for norm in backbones.NORMS]
  trees = [jax.eval_shape(net.init, jax.random.key(0)) for net in nets]
  frozen, trained = (
    {path: leaf.shape for part in tree for path, leaf in paths(part).items()} for tree in trees
  )
  assert frozen == trained
  assert frozen["stem/norm/scale"] == (64,)
  assert len(trees[0][0]["res4"]) == 6


def test_resnet101_has_23_blocks_in_res4():
  params, _ = jax.eval_shape(model("resnet101").init, jax.random.key(0))
  assert len(params["res4"]) == 23
  assert params["res5"][2]["conv2"]["conv"]["kernel"].shape == (3, 3, 512, 512)


def test_frozen_norm_gives_what_batch_norm_gives_in_evaluation():
  frozen, trained = (model(norm=norm) for norm in backbones.NORMS)
  abstract = jax.eval_shape(frozen.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  kernels, norms = jax.tree.map(
    lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) / leaf.size**0.5, abstract
  )
  by_path = paths((kernels, norms))
  by_path = {path.split("/", 1)[1]: leaf for path, leaf in by_path.items()}
  params, stats = (
    jax.tree_util.tree_map_with_path(
      lambda p, _: by_path[jax.tree_util.keystr(p, simple=True, separator="/")], tree
    )
    for tree in jax.eval_shape(trained.init, jax.random.key(0))
  )
  x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
  ours, _ = jax.jit(lambda x: frozen.apply(kernels, norms, x, train=True))(x)
  judge, _ = jax.jit(lambda x: trained.apply(params, stats, x, train=False))(x)
  for name, expected in judge.items():
    bound = 1e-5 * np.abs(expected).max()  # float32 round-off of ten layers
    np.testing.assert_allclose(ours[name], expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
  "norm", ["frozen_batch_norm", pytest.param("batch_norm", marks=pytest.mark.slow)]
)
def test_remat_changes_neither_features_nor_gradients_nor_statistics(norm):
  (plain_out, plain_grads, _), (remat_out, remat_grads, _) = (
    gradients(norm=norm, remat=remat) for remat in (False, True)
  )

  def close(a, b):
    # The recomputed convolutions may add up in another order.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(a).max()))

  jax.tree.map(close, plain_out, remat_out)
  jax.tree.map(close, plain_grads, remat_grads)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
  net = model(dtype="bfloat16")
  params, stats = jax.eval_shape(net.init, jax.random.key(0))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  apply = functools.partial(net.apply, train=True)
  features, new_stats = jax.eval_shape(apply, params, stats, x)
  assert all(f.dtype == jnp.bfloat16 for f in features.values())
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new_stats))
