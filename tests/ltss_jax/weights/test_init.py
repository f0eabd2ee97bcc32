"""Starting from saved weights."""

import copy

import jax
import numpy as np
import pytest

from ltss_jax.weights import init, trees


def model(num_classes=3, *, frozen=True, seesaw=False, value=0.0):
  """(params, stats) of a model with the parts of Mask2Former."""

  def full(*shape):
    return np.full(shape, value, np.float32)

  scale = {"scale": full(4), "bias": full(4)}
  statistics = {"mean": full(4), "var": full(4)}
  params = {
    "backbone": {"res2": {0: {"conv1": {"conv": {"kernel": full(3, 3, 4, 4)}}}}, "norm0": scale},
    "pixel_decoder": {"level_embed": full(3, 4), "mask_features": {"kernel": full(1, 1, 4, 4)}},
    "transformer_decoder": {
      "query_feat": full(2, 4),
      "class_embed": {"kernel": full(4, num_classes + 1), "bias": full(num_classes + 1)},
    },
  }
  stats = {"backbone": {"stem": {"norm": dict(statistics)}}}
  if frozen:
    stats["backbone"]["stem"]["norm"] |= scale
  else:
    params["backbone"]["stem"] = {"norm": scale}
  if seesaw:
    stats["transformer_decoder"] = {"seesaw_counts": full(num_classes + 1)}
  return params, stats


def values(*weights):
  """Path -> the one value of a leaf."""
  return {path: leaf.flat[0] for tree in weights for path, leaf in trees.flatten(tree).items()}


def test_the_whole_model_is_taken_over():
  fresh, saved = model(), model(value=1.0)
  params, stats, text = init.initial_weights(*fresh, *saved)
  assert set(values(params, stats).values()) == {1.0}
  assert jax.tree.structure((params, stats)) == jax.tree.structure(fresh)
  assert text == "12 arrays from the saved weights, 0 start afresh"


def test_class_layers_start_afresh_where_the_number_of_classes_differs():
  params, stats, text = init.initial_weights(
    *model(5, seesaw=True), *model(3, seesaw=True, value=1.0)
  )
  afresh = {path for path, value in values(params, stats).items() if value == 0}
  assert afresh == {
    "transformer_decoder/class_embed/kernel",
    "transformer_decoder/class_embed/bias",
    "transformer_decoder/seesaw_counts",
  }
  assert params["transformer_decoder"]["class_embed"]["kernel"].shape == (4, 6)
  assert text.splitlines() == [
    "10 arrays from the saved weights, 3 start afresh",
    "- transformer_decoder/class_embed/kernel",
    "- transformer_decoder/class_embed/bias",
    "- transformer_decoder/seesaw_counts",
  ]


def test_another_kind_of_class_head():
  _, stats, text = init.initial_weights(*model(seesaw=True), *model(value=1.0))
  assert stats["transformer_decoder"]["seesaw_counts"][0] == 0
  assert "- transformer_decoder/seesaw_counts" in text
  _, stats, text = init.initial_weights(*model(), *model(value=1.0, seesaw=True))
  assert "transformer_decoder" not in stats
  assert "+ transformer_decoder/seesaw_counts: not used" in text


def test_what_is_taken_over_has_to_be_finite():
  saved = model(3, value=np.nan)
  for tree in (saved[0]["backbone"], saved[0]["pixel_decoder"], saved[1]):
    jax.tree.map(lambda leaf: leaf.fill(1), tree)
  with pytest.raises(
    ValueError,
    match=r"^3 of the 12 arrays of the saved weights hold NaN or infinity: transformer_decoder/que",
  ):
    init.initial_weights(*model(3), *saved)
  saved[0]["transformer_decoder"]["query_feat"].fill(1)
  params, _, _ = init.initial_weights(*model(5), *saved)  # the class layers start afresh
  assert set(values(params).values()) == {0.0, 1.0}


def backbone_of(weights):
  return tuple({"backbone": copy.deepcopy(tree["backbone"])} for tree in weights)


def test_a_backbone_alone_with_a_norm_that_its_file_lacks():
  saved = backbone_of(model(value=1.0))
  del saved[0]["backbone"]["norm0"]
  params, stats, text = init.initial_weights(*model(), *saved)
  taken = {path for path, value in values(params, stats).items() if value == 1}
  assert taken == set(values(*saved))
  assert text.splitlines() == [
    "5 arrays from the saved weights, 7 start afresh",
    "- pixel_decoder/ (2 arrays)",
    "- transformer_decoder/ (1 arrays)",
    "- backbone/norm0/scale",
    "- backbone/norm0/bias",
    "- transformer_decoder/class_embed/kernel",
    "- transformer_decoder/class_embed/bias",
  ]


def test_norms_may_be_frozen_in_one_and_trained_in_the_other():
  saved = backbone_of(model(value=1.0, frozen=True))
  params, stats, _ = init.initial_weights(*model(frozen=False), *saved)
  assert set(values(params["backbone"], stats).values()) == {1.0}
  assert set(params["backbone"]["stem"]["norm"]) == {"scale", "bias"}


def test_lists_that_were_written_as_text_are_found():
  params, stats = model(value=1.0)
  params["backbone"]["res2"] = {"0": params["backbone"]["res2"][0]}
  taken, _, _ = init.initial_weights(*model(), params, stats)
  assert taken["backbone"]["res2"][0]["conv1"]["conv"]["kernel"].flat[0] == 1


def test_everything_else_that_differs_is_one_error():
  params, stats = model(value=1.0)
  params["transformer_decoder"]["query_feat"] = np.ones((7, 4), np.float32)
  params["other"] = {"kernel": np.ones(3)}
  del params["pixel_decoder"]["level_embed"]
  with pytest.raises(ValueError) as error:
    init.initial_weights(*model(), params, stats)
  assert str(error.value).splitlines()[1:] == [
    "! transformer_decoder/query_feat: saved (7, 4), in the model (2, 4)",
    "+ other/kernel (3,): not part of the model",
    "- pixel_decoder/level_embed (3, 4): missing in the saved weights",
  ]


def test_a_backbone_without_some_of_its_layers_is_an_error():
  saved = backbone_of(model(value=1.0))
  saved[0]["backbone"].pop("res2")
  with pytest.raises(ValueError, match="- backbone/res2/0/conv1/conv/kernel .*: missing"):
    init.initial_weights(*model(), *saved)


def with_training_only(weights, value, classes=3):
  """The weights with a pixel head and pixel counts."""
  params, stats = copy.deepcopy(weights)
  full = lambda *shape: np.full(shape, value, np.float32)  # noqa: E731
  params["pixel_head"] = {
    "conv": {"conv": {"kernel": full(3, 3, 4, 4)}},
    "classifier": {"kernel": full(1, 1, 4, classes)},
  }
  stats["seesaw_counts"] = full(classes)
  return params, stats


def test_what_only_training_uses_starts_afresh_where_it_was_not_saved():
  fresh = with_training_only(model(), 0.0)
  params, stats, text = init.initial_weights(*fresh, *model(value=1.0))
  afresh = {path for path, value in values(params, stats).items() if value == 0}
  assert afresh == {
    "pixel_head/conv/conv/kernel",
    "pixel_head/classifier/kernel",
    "seesaw_counts",
  }
  assert "12 arrays from the saved weights, 3 start afresh" in text


def test_what_only_training_uses_is_taken_over_where_it_was_saved():
  fresh, saved = with_training_only(model(), 0.0), with_training_only(model(value=1.0), 1.0)
  params, stats, _ = init.initial_weights(*fresh, *saved)
  assert set(values(params, stats).values()) == {1.0}
  params, stats, text = init.initial_weights(*model(), *saved)
  assert jax.tree.structure((params, stats)) == jax.tree.structure(model())
  assert "+ pixel_head/conv/conv/kernel: not used" in text


def test_the_pixel_heads_classifier_follows_the_number_of_classes():
  fresh = with_training_only(model(5), 0.0, classes=5)
  saved = with_training_only(model(value=1.0), 1.0)
  params, stats, _ = init.initial_weights(*fresh, *saved)
  assert params["pixel_head"]["classifier"]["kernel"].shape == (1, 1, 4, 5)
  assert params["pixel_head"]["conv"]["conv"]["kernel"].flat[0] == 1
  assert stats["seesaw_counts"].tolist() == [0] * 5
