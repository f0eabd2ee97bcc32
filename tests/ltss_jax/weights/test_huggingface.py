"""Hugging Face's Mask2Former: names and packed projections."""

import json
import zlib

import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import mask2former
from ltss_jax.weights import huggingface, names, official, trees, whole_models
from ltss_jax.weights.conversion_report import Report
from tests import recipes
from tests.programs import GOLDEN

NAMES = json.loads((GOLDEN / "huggingface_names.json").read_text())
BACKBONES = {"swin": "swin_mini", "swin_in_memory": "swin_mini", "resnet": "resnet_small"}


def abstract(backbone):
  """(params, stats) of the small models' counterpart, as shapes."""
  config = recipes.mask2former_of(
    num_classes=5,
    backbone=recipes.backbone(backbone),
    channels=32,
    num_queries=3,
    encoder_layers=1,
    decoder_layers=1,
    num_heads=4,
    encoder_width=48,
    decoder_width=64,
  )
  model = nnx.eval_shape(lambda: mask2former.Mask2Former(config, rngs=nnx.Rngs(0)))
  _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def array(name, shape):
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  return rng.standard_normal(shape).astype(np.float32)


def state(kind):
  return {name: array(name, shape) for name, shape in NAMES[kind].items()}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_of_the_model_is_filled(kind):
  arrays, done = state(kind), Report()
  converted = whole_models.recognise(arrays).to_official(arrays, done)
  params, stats = official.load_official(
    "mask2former", *abstract(BACKBONES[kind]), converted, done=done
  )
  leaves = trees.flatten(params) | trees.flatten(stats)
  assert done.converted == len(leaves)
  assert done.missing == []
  assert [name.split(".")[-2] for name in done.dropped] == ["layernorm"] * len(done.dropped)
  # No array comes from two sources, and none of the file's is lost: the numbers of elements agree.
  unused = set(done.dropped) | {name for name in arrays if names.REGENERATED.fullmatch(name)}
  used = sum(array.size for name, array in arrays.items() if name not in unused)
  assert sum(leaf.size for leaf in leaves.values()) == used


def test_query_key_and_value_are_packed_in_this_order():
  arrays = state("swin")
  converted = huggingface.to_official(arrays)
  block = "model.pixel_level_module.encoder.encoder.layers.2.blocks.1.attention.self"
  packed = converted["backbone.layers.2.blocks.1.attn.qkv.weight"]
  parts = [arrays[f"{block}.{part}.weight"] for part in ("query", "key", "value")]
  np.testing.assert_array_equal(packed, np.concatenate(parts))
  layer = "model.transformer_module.decoder.layers.0.self_attn"
  packed = converted[
    "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
  ]
  parts = [arrays[f"{layer}.{part}_proj.bias"] for part in "qkv"]
  np.testing.assert_array_equal(packed, np.concatenate(parts))


@pytest.mark.parametrize(
  ("theirs", "official_name"),
  [
    (
      "model.pixel_level_module.decoder.encoder.layers.0.self_attn_layer_norm.bias",
      "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.bias",
    ),
    (
      "model.pixel_level_module.decoder.encoder.layers.0.final_layer_norm.bias",
      "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm2.bias",
    ),
    (
      "model.transformer_module.decoder.layers.0.cross_attn_layer_norm.weight",
      "sem_seg_head.predictor.transformer_cross_attention_layers.0.norm.weight",
    ),
    (
      "model.transformer_module.queries_features.weight",
      "sem_seg_head.predictor.query_feat.weight",
    ),
    (
      "model.pixel_level_module.encoder.encoder.layers.0.blocks.1.layernorm_after.bias",
      "backbone.layers.0.blocks.1.norm2.bias",
    ),
    ("model.pixel_level_module.encoder.hidden_states_norms.stage3.bias", "backbone.norm2.bias"),
    (
      "model.pixel_level_module.decoder.adapter_1.1.weight",
      "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
    ),
    ("class_predictor.bias", "sem_seg_head.predictor.class_embed.bias"),
  ],
)
def test_arrays_that_shapes_do_not_tell_apart(theirs, official_name):
  arrays = state("swin")
  np.testing.assert_array_equal(huggingface.to_official(arrays)[official_name], arrays[theirs])


def test_a_backbone_of_timm():
  prefix = "model.pixel_level_module.encoder._backbone"
  arrays = {
    f"{prefix}.layer1.0.downsample.1.bias": np.ones(1),
    f"{prefix}.bn1.running_mean": np.ones(2),
  }
  assert {name: len(a) for name, a in huggingface.to_official(arrays).items()} == {
    "backbone.res2.0.shortcut.norm.bias": 1,
    "backbone.stem.conv1.norm.running_mean": 2,
  }


def test_a_missing_part_of_a_packed_projection_is_named():
  arrays = state("swin")
  del arrays["model.transformer_module.decoder.layers.0.self_attn.k_proj.bias"]
  with pytest.raises(ValueError, match=r"self_attn.in_proj_bias is packed .* has no \['k'\]"):
    huggingface.to_official(arrays)


@pytest.mark.slow  # importing transformers takes longer than all of the other tests here
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_the_names_are_those_of_transformers(backbone, tmp_path):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from ltss_jax.weights import readers
  from tests.golden import huggingface_names

  model = huggingface_names.build(backbone)
  model.save_pretrained(tmp_path)
  saved = readers.read_arrays(tmp_path / "model.safetensors")
  assert {name: list(a.shape) for name, a in saved.items()} == NAMES[backbone]
  running = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
  saved, running = huggingface.to_official(saved), huggingface.to_official(running)
  assert set(saved) == set(running)
  for name, expected in running.items():
    np.testing.assert_array_equal(saved[name], expected, err_msg=name)
