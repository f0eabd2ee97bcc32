"""Mask2Former against the published PyTorch model, stage by stage, and its rules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax import architectures
from ltss_jax.models import (
  backbones,
  functional,
  mask2former,
  pixel_decoder,
  position,
  transformer_decoder,
)
from ltss_jax.weights import official
from tests import recipes
from tests.golden import official_parameters
from tests.mask_training import assert_only_rounding
from tests.programs import GOLDEN

RESNET50 = recipes.mask2former_of(171, recipes.backbone("resnet50"))


@pytest.fixture(scope="module")
def golden():
  return np.load(GOLDEN / "mask2former_r50_171.npz")


@pytest.fixture(scope="module")
def outputs():
  """Every stage's output on the golden images, with the golden parameters."""
  abstract = jax.eval_shape(mask2former.functions(RESNET50).init, jax.random.key(0))
  arrays = official_parameters.official_state("mask2former_r50_171_names.json")
  weights = official.load_official("mask2former", *abstract, arrays)
  graphdef, _, _ = nnx.split(
    nnx.eval_shape(lambda: mask2former.Mask2Former(RESNET50, rngs=nnx.Rngs(0))),
    nnx.Param,
    nnx.BatchStat,
  )

  @jax.jit
  def run(params, stats, image):
    model = nnx.merge(graphdef, params, stats)
    features = model.backbone(image, train=False)
    mask_features, memory = model.pixel_decoder(features)
    class_logits, embeddings = model.transformer_decoder(mask_features, memory)
    masks = mask2former.mask_logits(embeddings[-1], mask_features)
    return features, mask_features, memory, class_logits, masks

  image = architectures.normalize(np.load(GOLDEN / "images.npz")["batch"])
  names = ("features", "mask_features", "memory", "class_logits", "mask_logits")
  return dict(zip(names, jax.device_get(run(*weights, image)), strict=True))


def top_left(x):
  """First 16 channels and 6 x 6 cells, channel-first, as the golden slices."""
  return x[:, :6, :6, :16].transpose(0, 3, 1, 2)


def test_each_stage_equals_the_published_one(golden, outputs):
  # Float32 round-off through up to 60 layers; values reach 5. Seen: 2e-5.
  close = dict(atol=2e-4, rtol=1e-4)
  for name in ("res2", "res5"):
    ours = top_left(outputs["features"][name])
    np.testing.assert_allclose(ours, golden[f"backbone_{name}_slice"], **close)
  for level, ours in enumerate(outputs["memory"]):
    np.testing.assert_allclose(top_left(ours), golden[f"multi_scale_{level}_slice"], **close)
  ours = top_left(outputs["mask_features"])
  np.testing.assert_allclose(ours, golden["mask_features_slice"], **close)


def test_predictions_equal_the_published_ones(golden, outputs):
  """The golden file holds every fourth query of image 0."""
  # The bounds that users of converted checkpoints may rely on; seen: 5e-5 and 1e-4.
  np.testing.assert_allclose(
    outputs["class_logits"][:, 0, ::4], golden["pred_logits_all"], atol=2e-3
  )
  masks = outputs["mask_logits"][0].transpose(2, 0, 1)[::4]
  np.testing.assert_allclose(masks, golden["pred_masks"], atol=5e-3)


def test_semantic_map_equals_the_published_one(golden, outputs):
  masks = mask2former.full_size_masks(outputs["mask_logits"][:1], 128, 160)[0]
  scores = masks @ jax.nn.softmax(outputs["class_logits"][-1, 0])[:, :-1]
  y, x = golden["pixels"].T
  # Sums over 100 queries of products of probabilities; values reach 7. Seen: 2.3e-5.
  np.testing.assert_allclose(scores[y, x], golden["sem0_scores_at_pixels"], atol=5e-4)
  assert np.mean(np.argmax(scores, -1) == golden["sem0_argmax"]) >= 0.9995


def test_blocked_cells_are_those_below_one_half_and_never_all():
  features = jnp.array([[[1.0], [-1.0], [2.0]]])  # [B, S, C]
  embeddings = jnp.array([[[1.0], [-1.0], [0.0]], [[3.0], [2.0], [1.0]]])[:1]
  blocked = transformer_decoder._blocked(embeddings, features)
  # Query 2's probability is exactly one half everywhere, which does not block.
  expected = [[False, True, False], [True, False, True], [False, False, False]]
  np.testing.assert_array_equal(blocked[0], expected)
  nowhere = transformer_decoder._blocked(jnp.array([[[-1.0]]]), jnp.array([[[1.0], [2.0]]]))
  assert not nowhere.any()


def small_decoder():
  config = transformer_decoder.TransformerDecoderConfig(
    num_outputs=4,
    channels=32,
    num_queries=5,
    num_layers=3,
    num_heads=4,
    feed_forward_width=16,
    dtype=jnp.float32,
    remat=False,
  )
  return functional.functional(
    lambda rngs: _WithoutStatistics(transformer_decoder.TransformerDecoder(config, rngs=rngs))
  )


class _WithoutStatistics(nnx.Module):
  """Gives a decoder the call that `functional` expects."""

  def __init__(self, decoder):
    self.decoder = decoder

  def __call__(self, *inputs, train, rngs):
    del train, rngs
    return self.decoder(*inputs)


def test_no_gradient_passes_the_attention_masks():
  decoder = small_decoder()
  params, stats = decoder.init(jax.random.key(0))
  memory = [jax.random.normal(jax.random.key(i), (1, s, s, 32)) for i, s in enumerate((2, 4, 8))]

  def last_class_logits(mask_features):
    return decoder.apply(params, stats, mask_features, memory, train=True)[0][0][-1].sum()

  # The class logits depend on the mask features through the attention masks alone.
  features = jax.random.normal(jax.random.key(9), (1, 16, 16, 32))
  gradient = jax.grad(last_class_logits)(features)
  np.testing.assert_array_equal(gradient, 0)
  changed = last_class_logits(-features) - last_class_logits(features)
  assert abs(changed) > 1e-3  # they do depend on them


def test_sine_encoding_by_hand():
  encoding = np.asarray(position.sine_encoding(2, 4, 8))  # 4 features per axis
  y, x = 1 / 2 * 2 * np.pi, 3 / 4 * 2 * np.pi  # row 0 of 2, column 2 of 4
  expected = [f(p / t) for p in (y, x) for t in (1, 100) for f in (np.sin, np.cos)]
  # The sizes are enlarged by 1e-6 before the division.
  np.testing.assert_allclose(encoding[0, 2], expected, atol=1e-5)


def test_fresh_offsets_point_outwards_in_steps_of_one_cell():
  config = pixel_decoder.PixelDecoderConfig(
    channels=32, num_heads=8, num_points=4, num_layers=1, feed_forward_width=16, remat=False
  )
  layer = pixel_decoder.DeformableAttention(config, nnx.Rngs(0))
  offsets = layer.sampling_offsets.bias[...].reshape(8, 3, 4, 2)
  np.testing.assert_allclose(offsets[0, :, 0], [[1, 0]] * 3, atol=1e-6)
  np.testing.assert_allclose(offsets[1, 2], [[1, 1], [2, 2], [3, 3], [4, 4]], atol=1e-6)
  np.testing.assert_allclose(offsets[6, 0, 3], [0, -4], atol=1e-6)
  assert not layer.sampling_offsets.kernel[...].any()


def test_odd_sizes_are_padded_and_the_padding_is_cut_off_again():
  image = jnp.ones((1, 33, 64, 3))
  padded = backbones.pad_to_stride(image)
  assert padded.shape == (1, 64, 64, 3)
  assert padded[:, :33].all() and not padded[:, 33:].any()
  label = backbones.pad_to_stride(jnp.zeros((1, 33, 64), jnp.uint8), 255)
  assert (label[:, 33:] == 255).all() and not label[:, :33].any()
  assert mask2former.full_size_masks(jnp.ones((1, 16, 16, 2)), 33, 64).shape == (1, 33, 64, 2)


def test_remat_and_bfloat16_change_nothing_but_rounding():
  small = dict(channels=32, num_queries=5, encoder_layers=1, decoder_layers=2, num_heads=4)
  image = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))

  def run(dtype="float32", remat=False):
    backbone = recipes.backbone("resnet_small", dtype=dtype, remat=remat)
    config = recipes.mask2former_of(7, backbone, dtype=dtype, remat=remat, **small)
    model = mask2former.functions(config)
    params, stats = model.init(jax.random.key(0))

    def loss(params):
      predicted, _ = model.apply(params, stats, image, train=True)
      assert {x.dtype for x in jax.tree.leaves(predicted)} == {jnp.dtype("float32")}
      masks = mask2former.mask_logits(predicted.mask_embeddings, predicted.mask_features)
      return jnp.mean(predicted.class_logits**2) + jnp.mean(masks**2)

    return jax.jit(jax.value_and_grad(loss))(params)

  plain, recomputed, half = run(), run(remat=True), run(dtype="bfloat16")
  assert_only_rounding(plain, recomputed, half)
