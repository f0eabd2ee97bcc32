"""DeepLabV3+ against the published PyTorch model, and on sizes that divide by nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax import architectures
from ltss_jax.models import deeplabv3plus, functional
from ltss_jax.weights import official
from tests import recipes
from tests.golden import official_parameters
from tests.programs import GOLDEN


@pytest.fixture(scope="module")
def golden():
  return np.load(GOLDEN / "deeplabv3plus_r50_171.npz")


@pytest.fixture(scope="module")
def images():
  return architectures.normalize(np.load(GOLDEN / "images.npz")["batch"])


@pytest.fixture(scope="module")
def resnet50():
  config = recipes.deeplabv3plus_of(num_classes=171)
  return functional.functional(lambda rngs: deeplabv3plus.DeepLabV3Plus(config, rngs=rngs))


@pytest.fixture(scope="module")
def official_weights(resnet50):
  abstract = jax.eval_shape(resnet50.init, jax.random.key(0))
  arrays = official_parameters.official_state("deeplabv3plus_r50_171_names.json")
  return official.load_official("deeplabv3plus", *abstract, arrays)


def channel_first(x):
  return np.asarray(x).transpose(0, 3, 1, 2)


def test_backbone_equals_the_published_one(golden, images, official_weights):
  config = recipes.deeplabv3plus_of(num_classes=171)
  build = lambda: deeplabv3plus.DeepLabV3Plus(config, rngs=nnx.Rngs(0))  # noqa: E731
  graphdef, _, _ = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
  model = nnx.merge(graphdef, *official_weights)
  features = jax.jit(lambda x: model.backbone(x, train=False))(images)
  for name in ("res2", "res5"):
    ours = channel_first(features[name])
    # Float32 round-off of some 50 convolutions; values reach 4.
    np.testing.assert_allclose(
      ours[:, :16, :6, :6], golden[f"backbone_{name}_slice"], atol=1e-4, rtol=1e-4
    )
    statistics = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      ours[:, :64].mean((0, 2, 3)), golden[f"backbone_{name}_mean"], **statistics
    )


def test_logits_and_labels_equal_the_published_ones(golden, images, resnet50, official_weights):
  apply = jax.jit(lambda p, s, x: resnet50.apply(p, s, x, train=False)[0])
  logits = deeplabv3plus.full_resolution(apply(*official_weights, images), 128, 160)
  # The bound that users of converted checkpoints may rely on; seen: 1.2e-6.
  np.testing.assert_allclose(
    channel_first(logits)[:, :, ::8, ::8], golden["logits_slice"], atol=1e-3
  )
  y, x = golden["pixels"].T
  np.testing.assert_allclose(logits[0, y, x], golden["sem0_scores_at_pixels"], atol=1e-3)
  agreement = np.mean(np.argmax(logits[0], -1) == golden["sem0_argmax"])
  assert agreement >= 0.999


def test_loading_lists_missing_extra_and_misshapen_names(resnet50):
  abstract = jax.eval_shape(resnet50.init, jax.random.key(0))
  arrays = official_parameters.official_state("deeplabv3plus_r50_171_names.json")
  del arrays["backbone.stem.conv1.weight"]
  arrays["criterion.other"] = np.zeros(3)
  arrays["sem_seg_head.predictor.bias"] = np.zeros(150)
  with pytest.raises(ValueError) as error:
    official.load_official("deeplabv3plus", *abstract, arrays)
  message = str(error.value)
  assert "- backbone.stem.conv1.weight" in message
  assert "+ criterion.other (3,)" in message
  assert "! sem_seg_head.predictor.bias: the checkpoint has (150,), the model (171,)" in message
  assert len(message.splitlines()) == 4


def small(**changes):
  config = recipes.deeplabv3plus_of(
    num_classes=5,
    backbone="resnet_small",
    aspp_channels=16,
    aspp_dilations=(1, 2),
    low_level_channels=8,
    decoder_channels=16,
    **changes,
  )
  return functional.functional(lambda rngs: deeplabv3plus.DeepLabV3Plus(config, rngs=rngs))


def test_odd_sizes_are_upsampled_by_four_and_cut():
  model = small()
  params, stats = model.init(jax.random.key(0))
  logits, _ = model.apply(params, stats, jnp.ones((1, 97, 131, 3)), train=False)
  assert logits.shape == (1, 25, 33, 5)
  full = deeplabv3plus.full_resolution(logits, 97, 131)
  assert full.shape == (1, 97, 131, 5)
  uncut = jax.image.resize(logits, (1, 100, 132, 5), "bilinear", antialias=False)
  np.testing.assert_array_equal(full, uncut[:, :97, :131])


def test_windowed_pooling_applies_to_multiples_of_the_window_only():
  x = jax.random.normal(jax.random.key(0), (1, 8, 16, 256))
  config = recipes.deeplabv3plus_of(num_classes=5, image_pooling="window", crop_size=128)
  aspp = deeplabv3plus.Aspp(256, config, nnx.Rngs(0))
  pooled = aspp.pool(x)
  assert pooled.shape == (1, 1, 9, 256)
  np.testing.assert_allclose(pooled[0, 0, 3], x[0, :, 3:11].mean((0, 1)), atol=1e-6)
  assert aspp.pool(x[:, :, :15]).shape == (1, 1, 1, 256)


def test_training_moves_statistics_and_needs_a_key_for_dropout():
  model = small()
  params, stats = model.init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
  train = lambda key: model.apply(params, stats, x, train=True, rng=jax.random.key(key))  # noqa: E731
  first, new_stats = train(0)
  second, _ = train(1)
  again, _ = train(0)
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, second)
  mean = new_stats["backbone"]["stem"]["norm"]["mean"]
  stem = jax.lax.conv_general_dilated(
    x,
    params["backbone"]["stem"]["conv"]["kernel"],
    (2, 2),
    [(3, 3), (3, 3)],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  np.testing.assert_allclose(mean, 0.1 * stem.mean((0, 1, 2)), atol=1e-6)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
  model = small(dtype="bfloat16")
  params, stats = model.init(jax.random.key(0))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))
  x = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
  logits, new_stats = model.apply(params, stats, x, train=True, rng=jax.random.key(2))
  assert logits.dtype == jnp.float32
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new_stats))


def test_resnet101_and_initialisers():
  config = recipes.deeplabv3plus_of(num_classes=3, backbone="resnet101")
  model = functional.functional(lambda rngs: deeplabv3plus.DeepLabV3Plus(config, rngs=rngs))
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  assert len(params["backbone"]["res4"]) == 23
  params, _ = small().init(jax.random.key(0))
  kernel = params["backbone"]["res5"][0]["conv2"]["conv"]["kernel"]  # [3, 3, 256, 256]
  assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)  # He, fan out
  kernel = params["aspp"]["branches"][1]["conv"]["kernel"]  # [3, 3, 256, 16]
  bound = np.sqrt(3 / (9 * 256))
  assert 0.99 * bound < np.abs(kernel).max() <= bound
  assert np.std(params["classifier"]["kernel"]) == pytest.approx(0.001, rel=0.3)
