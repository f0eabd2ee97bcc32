"""What a checkpoint is, read off names and shapes."""

import numpy as np
import pytest

from ltss_jax.models import dino, vit
from ltss_jax.weights import describe


def plain_vit(depth, channels, *, names):
  """The few arrays by which a plain ViT is known; `names` of its tokens, positions and patches."""
  shapes = {f"blocks.{block}.norm1.bias": (channels,) for block in range(depth)}
  shapes |= {name: (channels, *rest) for name, rest in names.items()}
  return {f"backbone.{name}": np.zeros(shape) for name, shape in shapes.items()}


MAE = {"patch_embed.proj.weight": (3, 16, 16), "pos_embed": ()}
DINOV2 = MAE | {"blocks.0.ls1.gamma": ()}  # with registers or without
DINOV3 = {"patch_embed.patch_embeddings.weight": (3, 16, 16), "patch_embed.register_tokens": ()}


@pytest.mark.parametrize("name", dino.CONFIGS)
def test_encoders_of_dino(name):
  config = dino.CONFIGS[name]
  arrays = plain_vit(config.depth, config.channels, names=DINOV3 if config.rotary else DINOV2)
  assert describe.describe(arrays, "softmax") == describe.Description(None, name, None, None)


def test_depth_and_width_of_vit_b_are_those_of_three_encoders():
  config = vit.CONFIGS["vit_b"]
  found = [
    describe.describe(plain_vit(config.depth, config.channels, names=names), "softmax").backbone
    for names in (MAE, DINOV2, DINOV3)
  ]
  assert found == ["vit_b", "dinov2_b", "dinov3_b"]


@pytest.mark.parametrize("names", [MAE, DINOV2, DINOV3])
def test_another_size_is_none_that_is_known(names):
  assert describe.describe(plain_vit(7, 384, names=names), "softmax").backbone is None


def eomt(outputs=151, patch=16, **others):
  arrays = plain_vit(12, 384, names=DINOV2)
  arrays |= {
    "class_head.bias": np.zeros(outputs),
    "q.weight": np.zeros((100, 384)),
    "backbone.pos_embed": np.zeros((1, 64, 384)),
    "backbone.patch_embed.proj.weight": np.zeros((384, 3, patch, patch)),
  }
  return arrays | others


def test_an_eomt_tells_its_queries_and_with_a_table_its_crop():
  found = describe.describe(eomt(attn_mask_probs=np.zeros(3)), "softmax")
  settings = {"model.num_queries": 100, "model.num_blocks": 3, "data.crop_size": 128}
  assert found == describe.Description("eomt", "dinov2_s", "softmax", 150, settings)
  found = describe.describe(eomt(patch=8), "softmax")
  assert found.settings == {"model.num_queries": 100, "data.crop_size": 64}
  arrays = plain_vit(12, 384, names=DINOV3) | {"class_head.bias": np.zeros(151)}
  assert describe.describe(arrays, "softmax").settings == {}


@pytest.mark.parametrize(
  ("weights", "default", "head"),
  [(None, "softmax", "softmax"), (None, "seesaw", "seesaw"), (151, "seesaw", "softmax")]
  + [(150, "softmax", "seesaw")],
)
def test_the_class_head_follows_from_the_weights_of_the_classes(weights, default, head):
  buffer = {} if weights is None else {"criterion.empty_weight": np.ones(weights)}
  found = describe.describe(eomt(**buffer), default)
  assert (found.class_head, found.num_classes) == (head, 150 if head == "softmax" else 149)


SETTINGS = {"model.num_queries": 100, "model.num_blocks": 3, "data.crop_size": 128}


@pytest.mark.parametrize("field", SETTINGS)
def test_a_setting_that_does_not_fit_is_named_with_its_value(field):
  def check(settings):
    describe.check(
      describe.Description("eomt", "dinov2_s", "softmax", 150, SETTINGS),
      model="eomt",
      backbone="dinov2_s",
      class_head="softmax",
      data="ade20k",
      num_classes=150,
      settings=settings,
    )

  check(SETTINGS)
  value = SETTINGS[field]
  with pytest.raises(
    ValueError, match=rf"{field}={value}, .* has 7; give --config.{field}={value}$"
  ):
    check(SETTINGS | {field: 7})
