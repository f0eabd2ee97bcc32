"""Weights beside no training state: round trip, refusals, damage."""

import jax
import numpy as np
import pytest

from ltss_jax import checkpoint


def test_weights_come_back_with_their_info_and_list_numbers(tmp_path):
  params = {"blocks": {0: {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}}
  info = {"contents": "model", "num_classes": 3, "model": {"aspp_dilations": [1, 2]}}
  for name, stats in (("with", {"mean": np.float32([1, 2])}), ("without", {})):
    checkpoint.save_weights(tmp_path / name, params, stats, info)
    loaded = checkpoint.load_weights(tmp_path / name)
    jax.tree.map(np.testing.assert_array_equal, loaded[:2], (params, stats))
    assert loaded[2] == info


def test_weights_are_never_overwritten_and_what_is_none_is_named(tmp_path):
  checkpoint.save_weights(tmp_path / "weights", {"a": np.ones(2)}, {}, {})
  with pytest.raises(checkpoint.CheckpointError, match="weights exists already"):
    checkpoint.save_weights(tmp_path / "weights", {"a": np.zeros(2)}, {}, {})
  assert checkpoint.load_weights(tmp_path / "weights")[0]["a"].all()
  with pytest.raises(checkpoint.CheckpointError, match="nowhere does not exist"):
    checkpoint.load_weights(tmp_path / "nowhere")
  (tmp_path / "other").mkdir()
  with pytest.raises(checkpoint.CheckpointError, match="other holds no converted weights"):
    checkpoint.load_weights(tmp_path / "other")


def test_no_flipped_byte_and_no_truncation_gives_other_weights(tmp_path, damage_one_by_one):
  rng = np.random.default_rng(0)
  params = {"blocks": {0: {"kernel": rng.standard_normal((3, 3, 16, 32), np.float32)}}}
  stats = {"mean": rng.standard_normal(32, np.float32)}
  info = {"contents": "model", "num_classes": 3, "model": {"num_heads": 8}}
  checkpoint.save_weights(tmp_path / "weights", params, stats, info)
  seen = {"as they were": 0, "refused": 0}
  for what in damage_one_by_one(tmp_path / "weights"):
    try:
      loaded = checkpoint.load_weights(tmp_path / "weights")
      jax.tree.map(np.testing.assert_array_equal, loaded[:2], (params, stats))
      assert loaded[2] == info == checkpoint.read_info(tmp_path / "weights"), what
      seen["as they were"] += 1
    except checkpoint.DamagedCheckpointError as error:
      seen["refused"] += 1
      assert f"the checkpoint of weights {tmp_path}" in str(error), what
      assert "is damaged: " in str(error), what
  assert seen["refused"] >= 15 and sum(seen.values()) == 30, seen


def test_weights_keep_their_types(tmp_path):
  params = {"a": np.float64([1 / 3]), "b": np.int64([2**40])}  # which JAX would not
  checkpoint.save_weights(tmp_path / "weights", params, {}, {})
  loaded, _, _ = checkpoint.load_weights(tmp_path / "weights")
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {
    np.dtype("float64"),
    np.dtype("int64"),
  }
