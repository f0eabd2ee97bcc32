"""Hugging Face's Eomt and EomtDinov3: names and packed projections."""

import functools
import json
import re
import zlib

import numpy as np
import pytest

from configs import common
from ltss_jax import convert
from ltss_jax.weights import eomt_transformers, official, trees, whole_models
from ltss_jax.weights.conversion_report import Report
from tests.programs import GOLDEN

NAMES = json.loads((GOLDEN / "eomt_names.json").read_text())
BUFFERS = ("attn_mask_probs", "criterion.empty_weight")


@functools.cache
def abstract(kind):
  """(params, stats) of the small models' counterpart, as shapes."""
  config = common.apply_variants(common.get_config(), f"model=eomt,backbone={kind}_s")
  config.model.update(backbone=f"{kind}_mini", num_queries=5, num_blocks=2)
  config.data.crop_size = 64
  return convert.abstract_weights(config, 7)


def array(name, shape):
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  return rng.standard_normal(shape).astype(np.float32)


def state(kind):
  return {name: array(name, shape) for name, shape in NAMES[kind].items()}


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_every_name_of_the_model_is_filled(kind):
  arrays, done = state(kind), Report()
  converted = whole_models.recognise(arrays).to_official(arrays, done)
  params, stats = official.load_official("eomt", *abstract(kind), converted, done=done)
  leaves = trees.flatten(params) | trees.flatten(stats)
  assert done.converted == len(leaves)
  assert done.missing == done.dropped == []
  assert sorted(done.regenerated) == sorted(BUFFERS)
  # No array comes from two sources, and none of the file's is lost: the numbers of elements agree.
  used = sum(array.size for name, array in arrays.items() if name not in BUFFERS)
  assert sum(leaf.size for leaf in leaves.values()) == used


def test_query_key_and_value_are_packed_in_this_order():
  arrays = state("dinov2")
  converted = eomt_transformers.to_official(arrays)
  parts = [arrays[f"layers.2.attention.{part}_proj.weight"] for part in "qkv"]
  packed = converted["backbone.blocks.2.attn.qkv.weight"]
  np.testing.assert_array_equal(packed, np.concatenate(parts))


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_of_a_gated_network_the_gate_comes_first(leaf):
  arrays = state("swiglu")
  new = eomt_transformers.to_official(arrays)
  gate, up, down = (arrays[f"layers.1.mlp.{part}_proj.{leaf}"] for part in ("gate", "up", "down"))
  np.testing.assert_array_equal(
    new[f"backbone.blocks.1.mlp.fc1.{leaf}"], np.concatenate([gate, up])
  )
  np.testing.assert_array_equal(new[f"backbone.blocks.1.mlp.fc2.{leaf}"], down)
  # transformers 4.x
  old = {name: array for name, array in arrays.items() if "_proj" not in name or "mlp" not in name}
  for block in range(3):
    gate, up, down = (
      arrays[f"layers.{block}.mlp.{part}_proj.{leaf}"] for part in ("gate", "up", "down")
    )
    old[f"layers.{block}.mlp.weights_in.{leaf}"] = np.concatenate([gate, up])
    old[f"layers.{block}.mlp.weights_out.{leaf}"] = down
  old = eomt_transformers.to_official(old)
  for name in old:
    np.testing.assert_array_equal(old[name], new[name], err_msg=name)


@pytest.mark.parametrize(
  ("kind", "theirs", "official_name"),
  [
    ("dinov2", "layers.0.norm1.bias", "backbone.blocks.0.norm1.bias"),
    ("dinov2", "layers.0.attention.out_proj.bias", "backbone.blocks.0.attn.proj.bias"),
    ("dinov2", "layers.2.layer_scale1.lambda1", "backbone.blocks.2.ls1.gamma"),
    ("dinov2", "layers.2.layer_scale2.lambda1", "backbone.blocks.2.ls2.gamma"),
    ("dinov3", "layers.0.attention.v_proj.weight", "backbone.blocks.0.attention.v_proj.weight"),
    ("dinov3", "layers.2.layer_scale2.lambda1", "backbone.blocks.2.layer_scale2.lambda1"),
    ("dinov3", "layernorm.bias", "backbone.norm.bias"),
    ("dinov3", "mask_head.fc2.weight", "mask_head.2.weight"),
    ("dinov3", "mask_head.fc3.weight", "mask_head.4.weight"),
    ("dinov3", "upscale_block.block.1.layernorm2d.weight", "upscale.1.norm.weight"),
    ("dinov3", "upscale_block.block.0.conv1.weight", "upscale.0.conv1.weight"),
  ],
)
def test_arrays_that_shapes_do_not_tell_apart(kind, theirs, official_name):
  arrays = state(kind)
  converted = eomt_transformers.to_official(arrays)
  np.testing.assert_array_equal(converted[official_name], arrays[theirs])


def test_positions_are_those_of_the_table():
  arrays = state("dinov2")
  table = eomt_transformers.to_official(arrays)["backbone.pos_embed"]
  expected = arrays["embeddings.position_embeddings.weight"][None]
  np.testing.assert_array_equal(table, expected, strict=True)


def test_buffers_that_some_releases_save_are_dropped():
  buffers = [
    "embeddings.mask_token",
    "embeddings.position_ids",
    "rope_embeddings.inv_freq",
    "rope_embeddings.original_inv_freq",
  ]
  done = Report()
  arrays = state("dinov3") | dict.fromkeys(buffers, np.zeros((1, 1, 32)))
  assert set(eomt_transformers.to_official(arrays, done)) == set(
    eomt_transformers.to_official(state("dinov3"))
  )
  assert done.dropped == buffers


def test_a_missing_part_of_a_packed_projection_is_named():
  arrays = state("dinov2")
  del arrays["layers.0.attention.k_proj.bias"]
  message = re.escape("attn.qkv.bias is packed from q, k, v; the checkpoint lacks ['k']")
  with pytest.raises(ValueError, match=message):
    eomt_transformers.to_official(arrays)


@pytest.mark.slow  # importing transformers takes longer than all of the other tests here
@pytest.mark.parametrize("kind", NAMES)
def test_the_names_are_those_of_transformers(kind):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.golden import eomt_names

  model = eomt_names.MODELS[kind]()
  assert eomt_names.saved(model) == NAMES[kind]
  assert set(model.state_dict()) == set(NAMES[kind])
