"""Which weights of a run are meant, and that they are numbers."""

import jax
import numpy as np
import pytest

from configs import common
from input_pipeline import prepared
from ltss_jax import build, checkpoint
from ltss_jax.inference import restore


@pytest.fixture
def workdir(tmp_path):
  """A run whose weights are the step's number; step 2 is the best."""
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3) as run:
    for step, miou in ((1, 20.0), (2, 30.0), (3, None)):
      run.save(step, jax.device_put({"params": {"w": np.float32([step])}}), {"n": step}, miou)
  return tmp_path


@pytest.mark.parametrize(("wanted", "expected"), [(-1, 2), (0, 3), (1, 1)])
def test_the_best_the_latest_or_a_number(workdir, wanted, expected):
  step, params, stats = restore.read_run(workdir, wanted)
  assert (step, params["w"].tolist(), stats) == (expected, [expected], {})


def test_the_latest_stands_in_for_the_best_where_that_is_asked_for(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as run:
    run.save(5, jax.device_put({"params": {"w": np.float32([5])}}), {"n": 5})
  assert restore.read_run(tmp_path, -1, or_latest=True)[0] == 5
  with pytest.raises(checkpoint.CheckpointError, match="none there was evaluated in training"):
    restore.read_run(tmp_path, -1)


def test_averages_stand_for_the_weights_where_training_kept_them(tmp_path):
  """Statistics have one each, parameters that were not trained none."""
  trained, stats = {"w": np.float32([1])}, {"mean": np.float32([3])}
  state = {"params": {"head": trained, "backbone": {"w": np.float32([2])}}, "stats": stats}
  averages = {"params": {"head": {"w": np.float32([7])}}, "stats": {"mean": np.float32([8])}}
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as run:
    run.save(1, jax.device_put(state | {"ema": averages}), {"n": 1})
    run.save(2, jax.device_put(state | {"ema": {}}), {"n": 2})
  _, params, stats = restore.read_run(tmp_path, 1)
  assert params == {"head": {"w": [7]}, "backbone": {"w": [2]}} and stats == {"mean": [8]}
  _, params, stats = restore.read_run(tmp_path, 2)
  assert params == {"head": {"w": [1]}, "backbone": {"w": [2]}} and stats == {"mean": [3]}


METADATA = prepared.ClassMetadata("photos", ("sky", "grass", "roof"), (0, 1, 2), 255)
KERNEL, VARIANCE = ("backbone", "res4", 0, "conv2"), ("backbone", "stem", "norm")


@pytest.fixture(scope="module")
def model():
  """(config, architecture, params, stats) of a small DeepLabV3+, all weights 1."""
  config = common.get_config()
  common.apply_variants(config, "model=deeplabv3plus,backbone=resnet_small")
  config.model.aspp_channels = config.model.decoder_channels = 8
  architecture = build.build_architecture(config, num_classes=3)
  shapes = jax.eval_shape(architecture.init, jax.random.key(0))
  return config, architecture, *jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)


def with_value(tree, path, leaf, value):
  """A copy of the tree in which one element of a leaf has this value."""
  tree = jax.tree.map(np.array, tree)
  node = tree
  for key in path:
    node = node[key]
  node[leaf].flat[0] = value
  return tree


def broken(params, stats):
  params = with_value(params, (*KERNEL, "conv"), "kernel", np.nan)
  return params, with_value(stats, VARIANCE, "var", -np.inf)


MESSAGE = (
  r"^2 of the \d+ arrays of {} hold NaN or infinity: backbone/res4/0/conv2/conv/kernel,"
  r" backbone/stem/norm/var\. The model would predict without an error, but nonsense; {}$"
)


def test_converted_weights_that_are_not_finite_are_refused(model, tmp_path):
  config, architecture, params, stats = model
  info = {"contents": "model", "num_classes": 3, "model": config.model.to_dict()}
  checkpoint.save_weights(tmp_path / "good", params, stats, info)
  loaded, _ = restore.of_directory(config, tmp_path / "good", architecture)
  np.testing.assert_array_equal(loaded["classifier"]["bias"], np.ones(3))
  checkpoint.save_weights(tmp_path / "bad", *broken(params, stats), info)
  with pytest.raises(ValueError, match=MESSAGE.format(tmp_path / "bad", "convert another.*")):
    restore.of_directory(config, tmp_path / "bad", architecture)


def test_a_step_of_a_run_that_is_not_finite_is_refused(model, tmp_path):
  config, architecture, params, stats = model
  stats = stats | {"seesaw_counts": np.float32([np.nan, 1, 1])}  # training alone uses them
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as run:
    for step, weights in ((1, (params, stats)), (2, broken(params, stats))):
      state = dict(zip(("params", "stats"), weights, strict=True))
      run.save(step, jax.device_put(state), {"n": step})
  config = config.copy_and_resolve_references()
  config.eval.step = 1
  step, *_ = restore.of_run(config, tmp_path, architecture, METADATA)
  assert step == 1
  config.eval.step = 2
  source, advice = f"step 2 of {tmp_path}", "take an earlier step with --config.eval.step=N"
  with pytest.raises(ValueError, match=MESSAGE.format(source, advice)):
    restore.of_run(config, tmp_path, architecture, METADATA)


def test_what_training_alone_uses_may_be_missing(tmp_path):
  config = common.get_config()
  common.apply_variants(config, "model=mask2former,backbone=resnet_small")
  config.model.pixel_head = True
  architecture = build.build_architecture(config, num_classes=3)
  shapes = jax.eval_shape(architecture.init, jax.random.key(0))
  params, stats = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
  info = {"contents": "model", "num_classes": 3, "model": config.model.to_dict()}
  head = params.pop("pixel_head")
  checkpoint.save_weights(tmp_path / "weights", params, stats, info)
  restored, _ = restore.of_directory(config, tmp_path / "weights", architecture)
  assert jax.tree.structure(restored["pixel_head"]) == jax.tree.structure(head)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(restored["pixel_head"]))
  np.testing.assert_array_equal(restored["pixel_decoder"]["level_embed"], 1)
