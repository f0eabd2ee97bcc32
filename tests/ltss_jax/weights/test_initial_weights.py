"""Starting from saved weights."""

import copy

import jax
import numpy as np
import pytest

from ltss_jax.weights import class_rows, initial_weights, trees


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
  params, stats, text = initial_weights.initial_weights(*fresh, *saved)
  assert set(values(params, stats).values()) == {1.0}
  assert jax.tree.structure((params, stats)) == jax.tree.structure(fresh)
  assert text == "12 arrays from the saved weights, 0 start afresh"


def test_class_layers_start_afresh_where_the_number_of_classes_differs():
  params, stats, text = initial_weights.initial_weights(
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
  _, stats, text = initial_weights.initial_weights(*model(seesaw=True), *model(value=1.0))
  assert stats["transformer_decoder"]["seesaw_counts"][0] == 0
  assert "- transformer_decoder/seesaw_counts" in text
  _, stats, text = initial_weights.initial_weights(*model(), *model(value=1.0, seesaw=True))
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
    initial_weights.initial_weights(*model(3), *saved)
  saved[0]["transformer_decoder"]["query_feat"].fill(1)
  params, _, _ = initial_weights.initial_weights(*model(5), *saved)  # the class layers start afresh
  assert set(values(params).values()) == {0.0, 1.0}


def backbone_of(weights):
  return tuple({"backbone": copy.deepcopy(tree["backbone"])} for tree in weights)


def test_a_backbone_alone_with_a_norm_that_its_file_lacks():
  saved = backbone_of(model(value=1.0))
  del saved[0]["backbone"]["norm0"]
  params, stats, text = initial_weights.initial_weights(*model(), *saved)
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
  params, stats, _ = initial_weights.initial_weights(*model(frozen=False), *saved)
  assert set(values(params["backbone"], stats).values()) == {1.0}
  assert set(params["backbone"]["stem"]["norm"]) == {"scale", "bias"}


def test_lists_that_were_written_as_text_are_found():
  params, stats = model(value=1.0)
  params["backbone"]["res2"] = {"0": params["backbone"]["res2"][0]}
  taken, _, _ = initial_weights.initial_weights(*model(), params, stats)
  assert taken["backbone"]["res2"][0]["conv1"]["conv"]["kernel"].flat[0] == 1


def test_everything_else_that_differs_is_one_error():
  params, stats = model(value=1.0)
  params["transformer_decoder"]["query_feat"] = np.ones((7, 4), np.float32)
  params["other"] = {"kernel": np.ones(3)}
  del params["pixel_decoder"]["level_embed"]
  with pytest.raises(ValueError) as error:
    initial_weights.initial_weights(*model(), params, stats)
  assert str(error.value).splitlines()[1:] == [
    "! transformer_decoder/query_feat: saved (7, 4), in the model (2, 4)",
    "+ other/kernel (3,): not part of the model",
    "- pixel_decoder/level_embed (3, 4): missing in the saved weights",
  ]


def test_a_backbone_without_some_of_its_layers_is_an_error():
  saved = backbone_of(model(value=1.0))
  saved[0]["backbone"].pop("res2")
  with pytest.raises(ValueError, match="- backbone/res2/0/conv1/conv/kernel .*: missing"):
    initial_weights.initial_weights(*model(), *saved)


def with_training_only(weights, value, classes=3):
  """The weights with an auxiliary head and pixel counts."""
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
  params, stats, text = initial_weights.initial_weights(*fresh, *model(value=1.0))
  afresh = {path for path, value in values(params, stats).items() if value == 0}
  assert afresh == {
    "pixel_head/conv/conv/kernel",
    "pixel_head/classifier/kernel",
    "seesaw_counts",
  }
  assert "12 arrays from the saved weights, 3 start afresh" in text


def test_what_only_training_uses_is_taken_over_where_it_was_saved():
  fresh, saved = with_training_only(model(), 0.0), with_training_only(model(value=1.0), 1.0)
  params, stats, _ = initial_weights.initial_weights(*fresh, *saved)
  assert set(values(params, stats).values()) == {1.0}
  params, stats, text = initial_weights.initial_weights(*model(), *saved)
  assert jax.tree.structure((params, stats)) == jax.tree.structure(model())
  assert "+ pixel_head/conv/conv/kernel: not used" in text


def test_the_auxiliary_heads_classifier_follows_the_number_of_classes():
  fresh = with_training_only(model(5), 0.0, classes=5)
  saved = with_training_only(model(value=1.0), 1.0)
  params, stats, _ = initial_weights.initial_weights(*fresh, *saved)
  assert params["pixel_head"]["classifier"]["kernel"].shape == (1, 1, 4, 5)
  assert params["pixel_head"]["conv"]["conv"]["kernel"].flat[0] == 1
  assert stats["seesaw_counts"].tolist() == [0] * 5


def numbered(weights):
  """The weights with 1, 2, ... along the last axis of every leaf."""
  return jax.tree.map(
    lambda leaf: np.zeros_like(leaf) + np.arange(1, leaf.shape[-1] + 1), tuple(weights)
  )


def deeplab(num_classes, value=0.0, seesaw=True):
  """(params, stats) with the class layers of DeepLabV3+ alone, and a backbone."""
  full = lambda *shape: np.full(shape, value, np.float32)  # noqa: E731
  params = {
    "backbone": {"stem": {"kernel": full(2)}},
    "classifier": {"kernel": full(1, 1, 4, num_classes), "bias": full(num_classes)},
  }
  return params, {"seesaw_counts": full(num_classes)} if seesaw else {}


def mask2former(num_classes, value=0.0):
  """(params, stats) with the Seesaw head, and with the auxiliary head."""
  params, stats = with_training_only(model(num_classes, value=value), value, num_classes)
  del stats["seesaw_counts"]
  params["transformer_decoder"]["class_embed"] = {
    "kernel": np.full((4, num_classes + 2), value, np.float32),
    "bias": np.full(num_classes + 2, value, np.float32),
  }
  stats["transformer_decoder"] = {"seesaw_counts": np.full(num_classes + 1, value, np.float32)}
  return params, stats


def eomt(num_classes, value=0.0):
  """(params, stats) with the class layers of EoMT with the Seesaw head, queries and a backbone."""
  full = lambda *shape: np.full(shape, value, np.float32)  # noqa: E731
  params = {
    "backbone": {"cls_token": full(1, 1, 4)},
    "q": {"embedding": full(2, 4)},
    "class_head": {"kernel": full(4, num_classes + 2), "bias": full(num_classes + 2)},
  }
  return params, {"seesaw_counts": full(num_classes + 1)}


SAVED, ORDER, WANTED = ("sky", "sea", "sand"), ("sand", "sky", "sea"), ("sea", "fog", "sky", "ice")


@pytest.mark.parametrize(
  ("build", "behind"),
  [
    (deeplab, {"classifier/kernel": 0, "classifier/bias": 0, "seesaw_counts": 0}),
    (
      mask2former,
      {
        "transformer_decoder/class_embed/kernel": 2,
        "transformer_decoder/class_embed/bias": 2,
        "transformer_decoder/seesaw_counts": 1,
        "pixel_head/classifier/kernel": 0,
      },
    ),
    (eomt, {"class_head/kernel": 2, "class_head/bias": 2, "seesaw_counts": 1}),
    (
      model,
      {
        "transformer_decoder/class_embed/kernel": 1,
        "transformer_decoder/class_embed/bias": 1,
      },
    ),
  ],
)
def test_class_layers_go_by_the_names_of_the_classes(build, behind):
  saved = numbered(build(3))
  rest = {path for path in values(*saved) if path not in behind}
  for names, expected in ((ORDER, [3, 1, 2]), (WANTED, [2, 0, 1, 0]), (SAVED, [1, 2, 3])):
    rows = class_rows.ClassRows(SAVED, names)
    params, stats, text = initial_weights.initial_weights(*build(len(names)), *saved, rows)
    leaves = trees.flatten(params) | trees.flatten(stats)
    for path, number in behind.items():
      wanted = np.array(expected + [4, 5][:number], np.float32)
      np.testing.assert_array_equal(leaves[path], np.broadcast_to(wanted, leaves[path].shape))
      assert (f"~ {path}: by class names" in text) == (names != SAVED)
      assert leaves[path].dtype == np.float32
    assert all(leaves[path].flat[0] == 1 for path in rest)
    assert f"{len(leaves)} arrays from the saved weights, 0 start afresh" in text
    assert ("- 2 classes start afresh: fog, ice\n+ 1 saved classes are not used: sand" in text) == (
      names == WANTED
    )


def test_a_class_head_without_a_common_name_starts_afresh():
  """Also where the number of classes is the same: their rows would be those of other classes."""
  rows = class_rows.ClassRows(("cat", "dog", "cow"), SAVED)
  params, _, text = initial_weights.initial_weights(*deeplab(3), *numbered(deeplab(3)), rows)
  assert not params["classifier"]["kernel"].any() and params["backbone"]["stem"]["kernel"].all()
  assert "1 arrays from the saved weights, 3 start afresh\n- classifier/kernel\n" in text
  assert "~ 0 of 3 classes have the rows of their name\n- 3 classes start afresh: sky" in text
  params, _, _ = initial_weights.initial_weights(
    *deeplab(3), *numbered(deeplab(3))
  )  # names are not known
  assert params["classifier"]["bias"].tolist() == [1, 2, 3]
