"""The encoders' shapes and sizes; their outputs are tested with those of EoMT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import dino, position
from ltss_jax.weights import trees


def shapes(name, side=128):
  """Path -> shape of an encoder's parameters."""
  model = nnx.eval_shape(lambda: dino.build(name, side, dtype=jnp.float32, rngs=nnx.Rngs(0)))
  _, params = nnx.split(model, nnx.Param)
  return {path: x.shape for path, x in trees.flatten(nnx.to_pure_dict(params)).items()}


# By hand from the published configs: width, blocks, heads, width of the feed-forward networks.
@pytest.mark.parametrize(
  ("name", "channels", "depth", "heads", "hidden"),
  [
    ("dinov2_s", 384, 12, 6, 1536),
    ("dinov2_b", 768, 12, 12, 3072),
    ("dinov2_l", 1024, 24, 16, 4096),
    ("dinov2_g", 1536, 40, 24, 4096),
    ("dinov3_s", 384, 12, 6, 1536),
    ("dinov3_b", 768, 12, 12, 3072),
    ("dinov3_l", 1024, 24, 16, 4096),
  ],
)
def test_encoders_have_the_published_shapes(name, channels, depth, heads, hidden):
  config, parameters = dino.CONFIGS[name], shapes(name)
  assert (config.heads, config.patch) == (heads, 16)
  first, last = ("up_proj", "down_proj") if config.rotary else ("fc1", "fc2")
  gated = 2 if name == "dinov2_g" else 1
  assert parameters[f"blocks/{depth - 1}/mlp/{first}/kernel"] == (channels, gated * hidden)
  assert parameters[f"blocks/{depth - 1}/mlp/{last}/kernel"] == (hidden, channels)
  assert not any(path.startswith(f"blocks/{depth}/") for path in parameters)
  if config.rotary:
    assert parameters["blocks/0/attention/k_proj/kernel"] == (channels, channels)
    assert "blocks/0/attention/k_proj/bias" not in parameters
    assert parameters["blocks/0/attention/v_proj/bias"] == (channels,)
    assert parameters["patch_embed/register_tokens"] == (1, 4, channels)
  else:
    assert parameters["blocks/0/attn/qkv/kernel"] == (channels, 3 * channels)
    assert parameters["pos_embed"] == (1, 64, channels)
    assert parameters["reg_token"] == (1, 4, channels)


def test_training_multiplies_the_coordinates_by_a_factor_between_a_half_and_two():
  model = nnx.eval_shape(lambda: dino.build("dinov3_mini", 64, dtype=jnp.float32, rngs=nnx.Rngs(0)))
  image = jnp.zeros((1, 32, 48, 3))  # 2 x 3 patches

  @jax.jit
  def factor(seed):
    _, sin = model.rotation(image, nnx.Rngs(dropout=seed))
    _, plain = model.rotation(image, None)
    # The slowest angles, of one row's coordinate, stay below a quarter of a turn.
    return jnp.arcsin(sin[-1, 3]) / jnp.arcsin(plain[-1, 3])

  factors = np.array([factor(jax.random.key(seed)) for seed in range(400)])
  assert 0.5 <= factors.min() < 0.52 and 1.92 < factors.max() <= 2 * (1 + 1e-6)
  # Log-uniform: half of them below 1; four standard deviations of 400 draws.
  assert abs((factors < 1).mean() - 0.5) < 0.1
  assert abs((factors < 2**-0.5).mean() - 0.25) < 0.09
  np.testing.assert_array_equal(
    model.rotation(image, None)[0], position.rotary_positions(2, 3, 16)[0]
  )


def test_images_of_other_sizes_are_refused():
  image = jnp.zeros((1, 64, 72, 3))
  for name, match in (
    ("dinov3_mini", "image of 64 x 72: its sides must be multiples of the patch 16"),
    ("dinov2_mini", r"image of \(64, 72\): the positions are for a side of 64"),
  ):
    model = nnx.eval_shape(
      lambda name=name: dino.build(name, 64, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(model.embed, image)


def test_layers_above_count_the_blocks_behind_a_parameter():
  by_hand = {
    "cls_token": 11,
    "pos_embed": 11,
    "patch_embed/proj/kernel": 11,
    "patch_embed/register_tokens": 11,
    "blocks/0/norm1/scale": 11,
    "blocks/3/attn/qkv/kernel": 8,
    "blocks/11/ls2/gamma": 0,
    "norm/bias": 0,
  }
  assert {path: dino.layers_above("dinov2_s", path) for path in by_hand} == by_hand
  assert dino.layers_above("dinov2_g", "reg_token") == 39


@pytest.mark.parametrize("attention", [dino.Attention, dino.RotaryAttention])
def test_attention_weights_are_not_kept_for_the_backward_pass(attention):
  """On accelerators; XLA for CPUs takes both computations of them for one."""
  tokens, heads = 64, 4
  rotation = position.rotary_positions(8, 8, 8) if attention is dino.RotaryAttention else None
  layer = attention(32, heads, dtype=jnp.float32, rngs=nnx.Rngs(0))
  _, backward = jax.vjp(lambda x: layer(x, None, rotation), jnp.ones((1, tokens, 32)))
  kept = [x.size for x in jax.tree.leaves(backward)]
  assert 3 * tokens * 32 <= sum(kept) and max(kept) < heads * tokens**2
