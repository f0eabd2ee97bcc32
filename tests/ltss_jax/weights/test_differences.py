"""EoMT files that hold differences to the original DINOv3."""

import numpy as np
import pytest

from ltss_jax.weights import differences
from ltss_jax.weights.conversion_report import Report

SHAPES = {
  "backbone.patch_embed.patch_embeddings.weight": (4, 3, 2, 2),
  "backbone.blocks.0.norm1.weight": (4,),
  "backbone.blocks.0.norm2.weight": (4,),
  "backbone.norm.weight": (4,),
  "backbone.norm.bias": (4,),
}


def encoder(scale, seed=0):
  """Arrays around `scale` where they are scales of norms, else around 0."""
  rng = np.random.default_rng(seed)
  return {
    name: (
      scale * ("norm" in name and "weight" in name) + 0.02 * rng.standard_normal(shape)
    ).astype(np.float32)
    for name, shape in SHAPES.items()
  }


ORIGINAL = encoder(1.0)
DIFFERENCE = {name: 0.2 * array for name, array in encoder(-0.5, seed=1).items()}
HEAD = {"class_head.bias": np.float32([1, 2])}


def read_base(source):
  assert source == "dinov3.safetensors"
  return ORIGINAL


def completed(arrays, base):
  done = Report()
  return differences.completed(arrays, base, read_base, done), done


def test_the_original_encoder_is_added_and_nothing_else_changes():
  arrays, done = completed(DIFFERENCE | HEAD, "dinov3.safetensors")
  assert set(arrays) == set(SHAPES) | set(HEAD)
  for name in SHAPES:
    np.testing.assert_array_equal(arrays[name], ORIGINAL[name] + DIFFERENCE[name], strict=True)
  assert arrays["class_head.bias"] is HEAD["class_head.bias"]
  assert str(done).splitlines()[1:] == [
    "~ backbone.*: the weights of dinov3.safetensors added to 5 arrays"
  ]


def test_buffers_that_are_differences_follow_from_the_model():
  buffers = {"pixel_mean": np.zeros((1, 3, 1, 1)), "pixel_std": np.ones((1, 3, 1, 1))}
  arrays, done = completed(DIFFERENCE | buffers, "dinov3.safetensors")
  assert (set(arrays) - set(SHAPES), done.regenerated) == ({"pixel_std"}, ["pixel_mean"])
  assert "pixel_mean" in completed(ORIGINAL | buffers, "")[0]  # to be refused as not ours


def test_half_precision_is_added_in_single_precision():
  half = {name: array.astype(np.float16) for name, array in DIFFERENCE.items()}
  arrays, _ = completed(half, "dinov3.safetensors")
  name = "backbone.norm.bias"
  expected = ORIGINAL[name] + half[name].astype(np.float32)
  np.testing.assert_array_equal(arrays[name], expected, strict=True)


@pytest.mark.parametrize("base", ["", "none"])
def test_a_complete_file_stays_as_it_is(base):
  arrays, done = completed(ORIGINAL | HEAD, base)
  assert arrays == ORIGINAL | HEAD
  assert done == Report()


def test_differences_without_a_base_are_refused_unless_they_are_said_to_be_complete():
  message = (
    r"median of the scales of its encoder's norms is -0.\d+, .* looks like the differences .*"
    " --base=FILE, or --base=none if"
  )
  with pytest.raises(ValueError, match=message):
    completed(DIFFERENCE | HEAD, "")
  arrays, _ = completed(DIFFERENCE | HEAD, "none")
  assert arrays == DIFFERENCE | HEAD


def test_a_complete_file_does_not_get_the_base_twice():
  trained = {name: ORIGINAL[name] + array for name, array in DIFFERENCE.items()}
  with pytest.raises(ValueError, match="nearer to that of --base=dinov3.*; give --base=none"):
    completed(trained | HEAD, "dinov3.safetensors")


@pytest.mark.parametrize("base", ["dinov3.safetensors", "none"])
def test_other_models_take_no_base(base):
  others = {"backbone.patch_embed.proj.weight": np.zeros(2)} | HEAD
  with pytest.raises(ValueError, match=f"^--base={base} is for EoMT models .*: leave it out"):
    completed(others, base)
  assert completed(others, "")[0] == others


def test_a_base_of_another_size_is_told_by_name():
  arrays = dict(DIFFERENCE)
  arrays["backbone.norm.bias"] = np.zeros(5, np.float32)
  arrays["backbone.blocks.1.norm1.weight"] = arrays.pop("backbone.blocks.0.norm1.weight")
  with pytest.raises(ValueError) as error:
    completed(arrays, "dinov3.safetensors")
  assert str(error.value).splitlines() == [
    "--base=dinov3.safetensors is not the encoder that these are differences to; give the original"
    " DINOv3 weights of the same size:",
    "! backbone.norm.bias: (5,), in the base (4,)",
    "+ backbone.blocks.0.norm1.weight: in the base alone",
    "- backbone.blocks.1.norm1.weight: not in the base",
  ]
