"""Where a new run starts: random weights with a warning, a backbone alone, or a whole model."""

import jax
import numpy as np
import optax
import pytest

from configs import common
from ltss_jax import build, checkpoint, initial_state, mesh as mesh_lib, run_config


def small_config(directory="", data="folder"):
  config = common.get_config()
  config.data.name = data
  config.data.root = "unused"
  common.apply_variants(config, "model=deeplabv3plus,backbone=resnet_small")
  config.model.aspp_channels = config.model.decoder_channels = 8
  config.init.checkpoint = str(directory)
  return config


def start(config, num_classes=3):
  mesh = mesh_lib.data_mesh(jax.devices()[:2])
  architecture = build.build_architecture(
    config, num_classes=num_classes, ignore_label=255, mesh=mesh
  )
  return initial_state.initial_state(config, architecture, optax.adam(1e-3), mesh)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Weights of a whole model of four classes, and of its backbone alone: (params, two folders)."""
  folder = tmp_path_factory.mktemp("weights")
  config = small_config()
  params, stats = jax.device_get(build.model_functions(config, 4).init(jax.random.key(9)))
  info = {"contents": "model", "num_classes": 4, "model": config.model.to_dict()}
  checkpoint.save_weights(folder / "model", params, stats, info)
  parts = [{"backbone": tree["backbone"]} for tree in (params, stats)]
  checkpoint.save_weights(folder / "backbone", *parts, {"contents": "backbone"})
  return params, folder / "model", folder / "backbone"


def assert_equal_trees(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), theirs)


def test_a_whole_model_of_another_class_count_gives_all_but_the_classifier(saved, caplog):
  params, model, _ = saved
  state = start(small_config(model), num_classes=3)
  fresh = start(small_config(), num_classes=3)
  for part in params:
    if part == "classifier":
      assert_equal_trees(state.params[part], jax.device_get(fresh.params[part]))
    else:
      assert_equal_trees(state.params[part], params[part])
  same = start(small_config(model), num_classes=4)
  assert_equal_trees(same.params, params)
  assert int(state.step) == 0 and state.params["fuse"][0]["conv"]["kernel"].sharding.mesh.size == 2


def test_a_backbone_alone_leaves_the_rest_fresh(saved):
  params, _, backbone = saved
  state, fresh = start(small_config(backbone)), start(small_config())
  assert_equal_trees(state.params["backbone"], params["backbone"])
  assert_equal_trees(state.params["aspp"], jax.device_get(fresh.params["aspp"]))


@pytest.fixture
def workdir(saved, tmp_path):
  """A run of four classes: step s has the saved weights times s, and step 2 is the best."""
  params, stats, _ = checkpoint.load_weights(saved[1])
  run_config.write(tmp_path, small_config())
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3) as run:
    for step, miou in ((1, 20.0), (2, 30.0), (3, None)):
      state = {"params": jax.tree.map(lambda x: x * step, params), "stats": stats}  # noqa: B023
      run.save(step, jax.device_put(state), {"next_batch": step}, miou)
  return tmp_path


def test_a_run_gives_its_best_step_whatever_the_number_of_classes(saved, workdir):
  params, _, _ = saved
  state = start(small_config(workdir), num_classes=3)
  assert_equal_trees(state.params["aspp"], jax.tree.map(lambda x: x * 2, params["aspp"]))
  assert state.params["classifier"]["bias"].shape == (3,) and int(state.step) == 0


def test_a_run_of_another_model_or_without_the_step_is_refused(workdir):
  config = small_config(workdir)
  config.model.image_pooling = "window"
  with pytest.raises(ValueError, match="image_pooling: 'global' there, 'window' now"):
    start(config)
  config = small_config(workdir)
  config.init.step = 9
  with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint of step 9; there are: \[1"):
    start(config)


def test_weights_of_another_model_are_refused(saved):
  _, model, _ = saved
  config = small_config(model)
  config.model.aspp_channels = 16
  with pytest.raises(ValueError, match="config.model.aspp_channels: 8 there, 16 now"):
    start(config)


@pytest.mark.parametrize(("data", "warns"), [("ade20k", True), ("folder", False)])
def test_published_data_sets_warn_about_random_weights(data, warns, caplog):
  with caplog.at_level("WARNING", "absl"):
    start(small_config(data=data))
  assert ("config.init.checkpoint is empty" in caplog.text) == warns
