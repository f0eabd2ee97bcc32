"""Where a new run starts: random weights with a warning, a backbone alone, or a whole model."""

import jax
import numpy as np
import optax
import pytest
from etils import epath

from configs import common
from input_pipeline import class_stats, prepared
from ltss_jax import build, checkpoint, mesh as mesh_lib
from ltss_jax.dataset import Dataset
from ltss_jax.training import initial_state
from ltss_jax.workdir import atomic_file, paths, run_config
from tests import small_models


def small_config(directory="", data="folder"):
  config = common.get_config()
  config.data.name = data
  config.data.root = "unused"
  common.apply_variants(config, "model=deeplabv3plus,backbone=resnet_small")
  config.model.aspp_channels = config.model.decoder_channels = 8
  config.init.checkpoint = str(directory)
  return config


def dataset(names):
  """As it is known before a record of it is read."""
  metadata = prepared.ClassMetadata("photos", tuple(names), tuple(range(len(names))), 255)
  counts = class_stats.PixelCounts.from_rows([(2, 4)], [(np.array([0]), np.array([8]))])
  stats = class_stats.class_stats(counts, len(names))
  return Dataset(metadata, epath.Path("unused"), counts, counts, stats)


def start(config, num_classes=3, names=None):
  names = names or [f"class {i}" for i in range(num_classes)]
  num_classes = len(names)
  mesh = mesh_lib.data_mesh(jax.devices()[:2])
  objective = build.build_objective(config, num_classes=num_classes, ignore_label=255, mesh=mesh)
  transform = optax.adam(1e-3)
  return initial_state.initial_state(config, dataset(names), objective, transform, mesh)


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
  with caplog.at_level("INFO", "absl"):
    same = start(small_config(model), num_classes=4)
  assert_equal_trees(same.params, params)
  assert f"The class names of {model} are not known" in caplog.text
  assert int(state.step) == 0 and state.params["fuse"][0]["conv"]["kernel"].sharding.mesh.size == 2


def test_a_backbone_alone_leaves_the_rest_fresh(saved, caplog):
  params, _, backbone = saved
  with caplog.at_level("INFO", "absl"):
    state, fresh = start(small_config(backbone)), start(small_config())
  assert "Starting from" in caplog.text and "not known" not in caplog.text
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


def test_a_run_gives_its_best_step_and_the_rows_of_classes_of_equal_names(saved, workdir, caplog):
  atomic_file.write_json(paths.data(workdir), {"classes": list("abcd")})
  with caplog.at_level("INFO", "absl"):
    state = start(small_config(workdir), names=list("dxb"))
  params, _, _ = saved
  assert_equal_trees(state.params["aspp"], jax.tree.map(lambda x: x * 2, params["aspp"]))
  kernel, found = (tree["classifier"]["kernel"] for tree in (params, jax.device_get(state.params)))
  np.testing.assert_array_equal(found[..., [0, 2]], 2 * kernel[..., [3, 1]])
  assert found[..., 1].any() and not (found[..., [1]] == 2 * kernel).any()
  assert "- 1 classes start afresh: x\n+ 2 saved classes are not used: a, c" in caplog.text
  assert "not known" not in caplog.text and int(state.step) == 0


def test_averages_of_a_run_are_what_another_starts_from(saved, tmp_path):
  """Both its weights and its own averages, which are kept apart."""
  params, stats, _ = checkpoint.load_weights(saved[1])
  doubled = jax.tree.map(lambda x: 2 * x, {"params": params, "stats": stats})
  run_config.write(tmp_path, small_config())
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as run:
    state = {"params": params, "stats": stats, "ema": doubled}
    run.save(1, jax.device_put(state), {"next_batch": 1})
  config = small_config(tmp_path)
  config.optimizer.ema_decay = 0.5
  state = start(config, num_classes=4)
  assert_equal_trees(state.params, doubled["params"])
  assert_equal_trees(state.ema, doubled)
  assert start(small_config(tmp_path), num_classes=4).ema == {}


def test_a_frozen_backbone_needs_weights_and_names_what_they_lack(saved, tmp_path, caplog):
  config = small_config()
  config.model.freeze_backbone = True
  with pytest.raises(ValueError, match=r"freeze_backbone=True .*--config\.init\.checkpoint"):
    start(config)
  config.init.checkpoint = str(saved[2])
  with caplog.at_level("WARNING", "absl"):
    state = start(config)
  assert caplog.text == ""
  assert_equal_trees(state.params["backbone"], saved[0]["backbone"])
  assert not any("backbone" in str(p) for p, _ in jax.tree.leaves_with_path(state.opt_state))

  config.model.name, config.model.backbone = "mask2former", "swin_mini"
  config.model.update(small_models.MASK2FORMER)
  params, stats = small_models.random_weights(config, 3)
  parts = [{k: v for k, v in t.items() if k == "backbone"} for t in (params, stats)]
  del parts[0]["backbone"]["norm2"]  # which weights of ImageNet lack
  checkpoint.save_weights(tmp_path / "swin", *parts, {"contents": "backbone"})
  config.init.checkpoint = str(tmp_path / "swin")
  with caplog.at_level("WARNING", "absl"):
    start(config)
  assert f"what {tmp_path}/swin lacks of the backbone stays as it is drawn:\n" in caplog.text
  assert "- backbone/norm2/bias\n- backbone/norm2/scale" in caplog.text


def test_who_knows_the_names_of_saved_classes(tmp_path, caplog):
  names = ("b", "a")
  with caplog.at_level("INFO", "absl"):
    converted = initial_state.class_rows_of(str(tmp_path), {"classes": ["a", "b"]}, names)
    assert converted.of_model(np.zeros(2), np.array([1, 2])).tolist() == [2, 1]
    (tmp_path / "checkpoints").mkdir()
    atomic_file.write_json(paths.data(tmp_path), {"classes": ["b", "c"]})
    run = initial_state.class_rows_of(str(tmp_path), {}, names)
    assert run.of_model(np.zeros(2), np.array([1, 2])).tolist() == [1, 0]
    assert caplog.text == ""
    paths.data(tmp_path).unlink()
    assert initial_state.class_rows_of(str(tmp_path), {}, names) is None
  assert f"The class names of {tmp_path} are not known" in caplog.text


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
