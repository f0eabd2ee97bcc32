"""Released EoMTs: their complete lists of names, both ways."""

import functools
import zlib

import numpy as np
import pytest

from configs import common
from ltss_jax import convert
from ltss_jax.weights import eomt_release, official, readers, trees, whole_models
from ltss_jax.weights.conversion_report import Report
from tests.golden import official_parameters

BUFFERS = {
  "network.attn_mask_probs": np.zeros(3, np.float32),
  "network.encoder.pixel_mean": np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
  "network.encoder.pixel_std": np.float32([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1),
  "criterion.empty_weight": np.float32([1.0] * 150 + [0.1]),
}


@functools.cache
def abstract(backbone):
  """(params, stats) of a model for crops of 128 px, as shapes."""
  config = common.apply_variants(common.get_config(), f"model=eomt,backbone={backbone}")
  config.data.crop_size = 128
  return convert.abstract_weights(config, 150)


def state_of(backbone):
  """Arrays of the released shapes, different in every name and element; buffers as they are."""
  state = {}
  shapes = official_parameters.official_shapes(f"eomt_{backbone}_150_names.json")
  for name, shape in shapes.items():
    start = zlib.crc32(name.encode()) % 1000
    array = np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)
    state[name] = BUFFERS.get(name, array)
  return state


@pytest.mark.parametrize("backbone", ["dinov2_s", "dinov3_s"])
def test_released_to_ours_and_back_is_bit_exact(backbone, tmp_path):
  state, done = state_of(backbone), Report()
  arrays = whole_models.recognise(state).to_official(state, done)
  loaded = official.load_official("eomt", *abstract(backbone), arrays, done=done)
  shapes = [trees.flatten(tree) for tree in abstract(backbone)]
  assert {path: leaf.shape for path, leaf in trees.flatten(loaded[0]).items()} == {
    path: leaf.shape for path, leaf in shapes[0].items()
  }
  assert (done.converted, sorted(done.regenerated)) == (
    len(state) - 4,
    ["attn_mask_probs", "criterion.empty_weight", "pixel_mean", "pixel_std"],
  )
  back = eomt_release.from_official(official.to_official("eomt", *loaded), 150, 3)
  readers.write_safetensors(tmp_path / "back.safetensors", back)
  read = readers.read_arrays(tmp_path / "back.safetensors")
  assert set(read) == set(state)
  for name, array in state.items():
    np.testing.assert_array_equal(read[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("backbone", ["dinov2_s", "dinov3_s"])
def test_official_names_are_those_of_the_model(backbone):
  shapes = official.official_shapes("eomt", *abstract(backbone))
  released = official_parameters.official_shapes(f"eomt_{backbone}_150_names.json")
  official_names = eomt_release.to_official({name: np.zeros(1) for name in released})
  buffers = {"attn_mask_probs", "criterion.empty_weight", "pixel_mean", "pixel_std"}
  assert set(shapes) == set(official_names) - buffers


def test_transposed_convolutions_have_their_inputs_first():
  path, array = "upscale/0/conv1/kernel", np.arange(24).reshape(2, 3, 2, 2)
  ours = official.names.from_official_layout(path, array)
  assert ours.shape == (2, 2, 2, 3) and ours[1, 0, 1, 2] == array[1, 2, 1, 0]
  np.testing.assert_array_equal(official.names.to_official_layout(path, ours), array)


SMALL = {
  "network.class_head.bias": np.zeros(4),
  "network.upscale.0.conv1.weight": np.zeros((2, 2, 2, 2)),
  "network.encoder.backbone.blocks.10.attn.qkv.bias": np.zeros(6),
  "network.encoder.pixel_mean": np.ones((1, 3, 1, 1)),
  "criterion.empty_weight": np.ones(4),
}


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("network.", "network._orig_mod."),
    ("network.", ""),
    ("backbone.", "backbone._orig_mod."),
    ("blocks.10.", "blocks.10._orig_mod."),
    ("upscale.0.", "upscale._orig_mod.0._orig_mod."),
    ("network.", "_orig_mod.network._orig_mod."),
  ],
)
def test_compiled_modules_and_the_network_alone_have_the_same_names(old, new):
  state = {name.replace(old, new): array for name, array in SMALL.items()}
  assert set(state) != set(SMALL)
  if not new.startswith("_orig_mod."):  # a prefix of all names is taken off where files are read
    assert whole_models.recognise(state) is not None
  assert set(eomt_release.to_official(state)) == {
    "class_head.bias",
    "upscale.0.conv1.weight",
    "backbone.blocks.10.attn.qkv.bias",
    "pixel_mean",
    "criterion.empty_weight",
  }


def test_two_names_of_one_array_are_refused():
  twice = SMALL | {"network._orig_mod.class_head.bias": np.zeros(4)}
  with pytest.raises(ValueError, match=r"network.class_head.bias and network._orig_mod.class_head"):
    eomt_release.to_official(twice)


def test_other_pixel_values_than_ours_are_refused():
  state = state_of("dinov3_s")
  state["network.encoder.pixel_mean"] = np.full((1, 3, 1, 1), 0.5, np.float32)
  with pytest.raises(ValueError, match=r"\n\+ pixel_mean \(1, 3, 1, 1\): not part of the model$"):
    official.load_official("eomt", *abstract("dinov3_s"), eomt_release.to_official(state))


def test_an_encoder_alone_has_no_buffers_of_a_head():
  released = eomt_release.from_official({"backbone.norm.bias": np.zeros(2)}, 1, 3)
  assert set(released) == {
    "network.encoder.backbone.norm.bias",
    "network.encoder.pixel_mean",
    "network.encoder.pixel_std",
  }
