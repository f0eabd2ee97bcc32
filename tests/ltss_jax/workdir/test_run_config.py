"""The guard against mixing two runs in one workdir."""

import pytest

from configs import mhp_v2, shapes_lt
from ltss_jax.workdir import atomic_file, run_config


def test_same_config_passes_and_free_fields_may_change(tmp_path):
  run_config.check(tmp_path, shapes_lt.get_config())  # nothing there yet
  run_config.write(tmp_path, shapes_lt.get_config())
  config = shapes_lt.get_config()
  config.data.dir = "elsewhere"
  config.data.num_workers = 7
  config.eval.every_steps = 3
  config.checkpoint.keep = 9
  config.predict.save_scores = True
  config.train.max_nonfinite_steps = 2
  config.train.log_images_every_steps = 5
  config.train.report = False
  config.train.wandb_project = "tails"
  run_config.check(tmp_path, config)
  run_config.check(tmp_path, config, evaluating=True)
  assert (tmp_path / "config.json").exists()


def test_other_fields_are_named_with_both_values(tmp_path):
  run_config.write(tmp_path, shapes_lt.get_config())
  config = shapes_lt.get_config()
  config.seed = 17
  config.optimizer.learning_rate = 3.5
  with pytest.raises(ValueError) as error:
    run_config.check(tmp_path, config)
  message = str(error.value)
  assert "config.seed: 0 there, 17 now" in message
  assert "config.optimizer.learning_rate" in message and "3.5 now" in message
  assert str(tmp_path) in message and "--workdir" in message
  run_config.check(tmp_path, config, evaluating=True)  # the model is the same


def test_fields_that_are_newer_than_a_run_count_as_their_defaults(tmp_path):
  run_config.write(tmp_path, shapes_lt.get_config())
  content = run_config.read(tmp_path)
  del content["optimizer"]["ema_decay"], content["model"]["freeze_backbone"]
  atomic_file.write_json(tmp_path / run_config.FILE_NAME, content)
  config = shapes_lt.get_config()
  run_config.check(tmp_path, config)
  config.optimizer.ema_decay = 0.5
  with pytest.raises(ValueError, match=r"config\.optimizer\.ema_decay: 0\.0 there, 0\.5 now"):
    run_config.check(tmp_path, config)


def test_a_run_of_constant_rate_may_become_longer(tmp_path):
  config = shapes_lt.get_config()
  config.optimizer.poly_power = 0.0
  run_config.write(tmp_path, config)
  config.train.steps *= 2
  run_config.check(tmp_path, config)
  run_config.note_growth(tmp_path, config)
  assert run_config.read(tmp_path)["train"]["steps"] == config.train.steps
  config.train.steps //= 2  # not shorter
  with pytest.raises(ValueError, match=r"config\.train\.steps: 1600 there, 800 now"):
    run_config.check(tmp_path, config)


def test_a_run_whose_rate_has_fallen_is_not_made_longer_but_told_how(tmp_path):
  config = shapes_lt.get_config()
  run_config.write(tmp_path, config)
  config.train.steps *= 2
  with pytest.raises(ValueError) as error:
    run_config.check(tmp_path, config)
  assert "config.train.steps: 800 there, 1600 now" in str(error.value)
  assert f"--config.init.checkpoint={tmp_path}" in str(error.value)


def test_another_model_cannot_be_evaluated(tmp_path):
  run_config.write(tmp_path, shapes_lt.get_config())
  config = shapes_lt.get_config("backbone=resnet50")
  with pytest.raises(ValueError, match=r"config\.model\.backbone: 'resnet_small' there"):
    run_config.check(tmp_path, config, evaluating=True)


def test_evaluation_compares_what_inference_depends_on(tmp_path):
  run_config.write(tmp_path, mhp_v2.get_config())
  config = mhp_v2.get_config()
  # Of training, of the computation, of the other model.
  config.update_from_flattened_dict(
    {"model.drop_path": 0.2, "model.dtype": "float32", "model.aspp_channels": 8}
  )
  run_config.check(tmp_path, config, evaluating=True)
  config.model.num_queries = 50
  with pytest.raises(
    ValueError, match=r"holds a run .*\n  config\.model\.num_queries: 100 there, 50"
  ):
    run_config.check(tmp_path, config, evaluating=True)


def test_the_crop_sets_the_size_of_pooling_windows(tmp_path):
  config = mhp_v2.get_config("model=deeplabv3plus")
  run_config.write(tmp_path, config)
  config.data.crop_size = 640
  run_config.check(tmp_path, config, evaluating=True)
  config.model.image_pooling = "window"
  run_config.write(tmp_path, config)
  config.data.crop_size = 512
  with pytest.raises(ValueError, match=r"config\.data\.crop_size: 640 there, 512 now"):
    run_config.check(tmp_path, config, evaluating=True)


def test_unreadable_config_is_named(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not readable"):
    run_config.check(tmp_path, shapes_lt.get_config())
