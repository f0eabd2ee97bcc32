"""The auxiliary head: what it computes, and that only training knows of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import auxiliary_head, mask2former
from tests import recipes

SMALL = recipes.mask2former_of(
  7,
  recipes.backbone("resnet_small", dtype="bfloat16"),
  channels=32,
  num_queries=5,
  encoder_layers=1,
  decoder_layers=1,
  num_heads=4,
  dtype="bfloat16",
)


@pytest.fixture(scope="module")
def with_head():
  model = mask2former.functions(dataclasses.replace(SMALL, pixel_head=True))
  return model, *model.init(jax.random.key(0))


def test_head_is_a_convolution_a_norm_and_a_linear_map():
  head = auxiliary_head.AuxiliaryHead(32, 3, rngs=nnx.Rngs(0))
  assert head.classifier.kernel.shape == (1, 1, 32, 3)
  # Only the kernel's centre: each of the 32 groups holds one channel, normalised over the map.
  head.conv.conv.kernel[...] = jnp.zeros((3, 3, 32, 32)).at[1, 1].set(jnp.eye(32))
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 32))
  logits = head(x)
  normed = (x - x.mean((1, 2))) / np.sqrt(np.asarray(x).var((1, 2)) + 1e-5)
  expected = np.maximum(normed, 0) @ np.asarray(head.classifier.kernel[0, 0])
  np.testing.assert_allclose(logits, expected, atol=1e-6)  # logits of about 0.01


def test_only_training_returns_its_logits_in_float32(with_head):
  model, params, stats = with_head
  image = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
  shapes = {
    train: jax.eval_shape(lambda train=train: model.apply(params, stats, image, train=train)[0])
    for train in (True, False)
  }
  assert shapes[True].pixel_logits.shape == (2, 16, 16, 7)
  assert shapes[True].pixel_logits.dtype == jnp.float32
  assert shapes[False].pixel_logits is None
  assert shapes[True][:3] == shapes[False][:3]


def test_the_other_parts_start_from_the_same_weights(with_head):
  _, params, stats = with_head
  model = mask2former.functions(SMALL)
  plain = model.init(jax.random.key(0))
  others = {name: part for name, part in params.items() if name != "pixel_head"}
  jax.tree.map(np.testing.assert_array_equal, (others, stats), plain)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  predicted = jax.eval_shape(lambda x: model.apply(*plain, x, train=True)[0], image)
  assert predicted.pixel_logits is None
