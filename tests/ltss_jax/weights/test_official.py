"""Official names and layouts, both ways, on the published models' complete lists of names."""

import functools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import deeplabv3plus, mask2former
from ltss_jax.weights import names, official, readers, trees
from ltss_jax.weights.conversion_report import Report
from tests import recipes
from tests.golden import official_parameters


@functools.cache
def abstract(model):
  """(params, stats) of a model, as shapes."""
  if model == "resnet50+seesaw":  # building it anew takes seconds; test_convert.py has a real one
    params, stats = jax.tree.map(lambda leaf: leaf, abstract("resnet50"))
    class_embed = {"kernel": (256, 173), "bias": (173,)}
    params["transformer_decoder"]["class_embed"] = {
      leaf: jax.ShapeDtypeStruct(shape, np.float32) for leaf, shape in class_embed.items()
    }
    counts = jax.ShapeDtypeStruct((172,), np.float32)
    return params, stats | {"transformer_decoder": {"seesaw_counts": counts}}

  def build():
    if model == "deeplabv3plus":
      config = recipes.deeplabv3plus_of(171)
      return deeplabv3plus.DeepLabV3Plus(config, rngs=nnx.Rngs(0))
    num_classes = 171 if model == "resnet50" else 150
    config = recipes.mask2former_of(num_classes, recipes.backbone(model))
    return mask2former.Mask2Former(config, rngs=nnx.Rngs(0))

  _, params, stats = nnx.split(nnx.eval_shape(build), nnx.Param, nnx.BatchStat)
  return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def shapes_of(model):
  """Official names and shapes of a model."""
  files = {
    "resnet50": "mask2former_r50_171",
    "resnet50+seesaw": "mask2former_r50_171",
    "swin_t": "mask2former_swin_t_150",
    "vit_b": "mask2former_vit_b_150",
    "deeplabv3plus": "deeplabv3plus_r50_171",
  }
  shapes = official_parameters.official_shapes(f"{files[model]}_names.json")
  if model.endswith("+seesaw"):
    shapes["sem_seg_head.predictor.class_embed.weight"] = (173, 256)
    shapes["sem_seg_head.predictor.class_embed.bias"] = (173,)
    shapes["criterion.seesaw_loss.cum_samples"] = (172,)
  return shapes


def state_of(model):
  """Arrays of the official shapes, different in every name and element; buffers as they are."""
  state = {}
  for name, shape in shapes_of(model).items():
    if names.REGENERATED.fullmatch(name):
      state[name] = official_parameters.official_parameter(name, shape)
    else:
      start = zlib.crc32(name.encode()) % 1000
      state[name] = np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)
  return state


def kind_of(model):
  return model if model == "deeplabv3plus" else "mask2former"


MODELS = ["resnet50", "resnet50+seesaw", "swin_t", "vit_b", "deeplabv3plus"]


@pytest.mark.parametrize("model", MODELS)
def test_official_to_ours_and_back_is_bit_exact(model):
  state, done = state_of(model), Report()
  loaded = official.load_official(kind_of(model), *abstract(model), state, done=done)
  # Every leaf of the model is filled, in its shape.
  for ours, shape in zip(loaded, abstract(model), strict=True):
    ours, shape = trees.flatten(ours), trees.flatten(shape)
    assert {path: leaf.shape for path, leaf in ours.items()} == {
      path: leaf.shape for path, leaf in shape.items()
    }
    assert {leaf.dtype for leaf in ours.values()} <= {np.dtype(np.float32)}
  back = official.to_official(kind_of(model), *loaded)
  assert set(back) == set(state)
  for name, array in state.items():
    assert back[name].dtype == array.dtype, name
    np.testing.assert_array_equal(back[name], array, err_msg=name, strict=True)
  assert done.converted + len(done.regenerated) == len(state)
  assert str(done).splitlines() == [
    f"{done.converted} names converted, {len(done.regenerated)} regenerated"
  ]


def test_layouts_of_single_arrays():
  linear, conv = np.arange(6).reshape(2, 3), np.arange(120).reshape(2, 3, 4, 5)
  ours = names.from_official_layout("a/qkv/kernel", linear)
  assert ours.shape == (3, 2) and ours[2, 1] == linear[1, 2]
  ours = names.from_official_layout("a/conv/kernel", conv)
  assert ours.shape == (4, 5, 3, 2) and ours[3, 4, 2, 1] == conv[1, 2, 3, 4]
  ours = names.from_official_layout("backbone/res3/2/kernel", conv)  # transposed: I O kh kw
  assert ours.shape == (4, 5, 2, 3) and ours[3, 4, 1, 2] == conv[1, 2, 3, 4]
  assert names.from_official_layout("transformer_decoder/query_feat", linear) is linear


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("backbone/res2/0/conv1/norm/var", "backbone.res2.0.conv1.norm.running_var"),
    ("backbone/res2/2/conv1/conv/kernel", "backbone.res2.2.conv1.weight"),
    ("backbone/patch_embed/norm/scale", "backbone.patch_embed.norm.weight"),
    (
      "transformer_decoder/cross_attention/8/attn/in_proj/kernel",
      "sem_seg_head.predictor.transformer_cross_attention_layers.8.multihead_attn.in_proj_weight",
    ),
    ("transformer_decoder/level_embed", "sem_seg_head.predictor.level_embed.weight"),
    ("pixel_decoder/level_embed", "sem_seg_head.pixel_decoder.transformer.level_embed"),
  ],
)
def test_names_of_single_leaves(path, name):
  assert names.official_name("mask2former", path) == name


def old_names(state, remove):
  return {name.replace(*remove): array for name, array in state.items()}


@pytest.mark.parametrize(
  "remove", [("sem_seg_head.pixel_decoder.", "sem_seg_head."), ("query_feat", "static_query")]
)
def test_names_of_older_releases(remove):
  state = state_of("resnet50")
  old = old_names(state, remove)
  assert set(old) != set(state)
  new = official.load_official("mask2former", *abstract("resnet50"), state)
  loaded = official.load_official("mask2former", *abstract("resnet50"), old)
  jax.tree.map(np.testing.assert_array_equal, loaded, new)


def test_counts_of_a_seesaw_head_may_be_missing():
  state, done = state_of("resnet50+seesaw"), Report()
  del state[names.COUNTS]
  _, stats = official.load_official("mask2former", *abstract("resnet50+seesaw"), state, done=done)
  np.testing.assert_array_equal(stats["transformer_decoder"]["seesaw_counts"], np.zeros(172))
  assert names.COUNTS in done.regenerated


def test_trained_batch_norm_counts_its_batches():
  def stem(**leaves):
    return {"backbone": {"stem": {"norm": {name: np.ones(3) for name in leaves}}}}

  scale_bias, mean_var = dict(scale=1, bias=1), dict(mean=1, var=1)
  counts = "backbone.stem.conv1.norm.num_batches_tracked"
  trained = official.to_official("mask2former", stem(**scale_bias), stem(**mean_var))
  assert trained[counts] == 0 and len(trained) == 5
  frozen = official.to_official("mask2former", {}, stem(**scale_bias, **mean_var))
  assert counts not in frozen and len(frozen) == 4


def test_missing_left_over_and_misshapen_names_are_listed_in_one_error():
  state = state_of("resnet50")
  del state["backbone.stem.conv1.weight"]
  state["sem_seg_head.extra"] = np.zeros(3)
  state["sem_seg_head.predictor.query_feat.weight"] = np.zeros((50, 256))
  state["backbone.res2.0.conv1.norm.bias"] = np.zeros(64, np.int64)
  with pytest.raises(ValueError) as error:
    official.load_official("mask2former", *abstract("resnet50"), state)
  assert str(error.value).splitlines() == [
    "the weights do not fit this mask2former:",
    "! backbone.res2.0.conv1.norm.bias: the checkpoint has int64 numbers, weights are"
    " floating-point",
    "! sem_seg_head.predictor.query_feat.weight: the checkpoint has (50, 256), the model"
    " (100, 256) (our layout)",
    "+ sem_seg_head.extra (3,): not part of the model",
    "- backbone.stem.conv1.weight (7, 7, 3, 64): missing in the checkpoint",
  ]


@pytest.mark.parametrize(
  ("name", "array"),
  [
    ("backbone.stem.conv1.weight", np.full((64, 3, 7, 7), np.nan, np.float16)),
    ("backbone.stem.conv1.norm.running_var", np.full(64, -np.inf, jnp.bfloat16)),
    ("backbone.stem.conv1.norm.running_mean", np.full(64, 1e300)),  # float32 ends at 3.4e38
  ],
)
def test_arrays_that_are_not_finite_are_refused_by_name(name, array):
  state = state_of("resnet50")
  with pytest.raises(ValueError) as error:
    official.load_official("mask2former", *abstract("resnet50"), state | {name: array})
  assert str(error.value).startswith(
    f"1 of the {len(state) - 1} arrays of the checkpoint hold NaN or infinity: {name}. The model"
  )
  assert "take a checkpoint from before the training that wrote it broke down" in str(error.value)


def test_of_many_arrays_that_are_not_finite_the_first_are_named():
  state = {n: a * np.nan if a.dtype.kind == "f" else a for n, a in state_of("swin_t").items()}
  with pytest.raises(ValueError, match=r"^\d+ of the \d+ arrays of the checkpoint") as error:
    official.load_official("mask2former", *abstract("swin_t"), state)
  bad, taken = (int(word) for word in re.findall(r"\d+", str(error.value))[:2])
  assert bad == taken > 300
  assert str(error.value).count("backbone.") == 3


def test_the_error_of_another_model_stays_readable():
  with pytest.raises(ValueError, match=r"\.\.\. and \d+ more") as error:
    official.load_official("mask2former", *abstract("resnet50"), {"a": np.zeros(1)})
  assert len(str(error.value).splitlines()) == 32


def test_normalisation_buffers_must_be_ours():
  state, done = state_of("resnet50"), Report()
  state["pixel_mean"] = np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1)
  official.load_official("mask2former", *abstract("resnet50"), state, done=done)
  assert "pixel_mean" in done.regenerated
  state["pixel_mean"] = state["pixel_mean"][::-1]
  with pytest.raises(ValueError, match=r"\+ pixel_mean \(3, 1, 1\): not part of the model"):
    official.load_official("mask2former", *abstract("resnet50"), state)


def test_half_precision_weights_become_float32():
  state = state_of("swin_t")
  name = "backbone.norm0.bias"
  half = state | {name: np.full(96, 0.1, np.float16)}
  params, _ = official.load_official("mask2former", *abstract("swin_t"), half)
  np.testing.assert_array_equal(
    params["backbone"]["norm0"]["bias"], np.full(96, np.float32(np.float16(0.1)), np.float32)
  )


def test_a_written_checkpoint_reads_back(tmp_path):
  state = {"backbone.norm0.bias": np.arange(96, dtype=np.float32)}
  readers.write_pickle(tmp_path / "out.pkl", state)
  read = readers.read_arrays(tmp_path / "out.pkl")
  np.testing.assert_array_equal(read["backbone.norm0.bias"], state["backbone.norm0.bias"])
