import logging

import pytest

from configs import common, derive, folder, shapes_lt


def finalize(config, num_train_images=96, median_height=240, median_width=320):
  return common.finalize(
    config,
    num_train_images=num_train_images,
    median_height=median_height,
    median_width=median_width,
  )


def test_small_photographs():
  config = folder.get_config()
  result = finalize(config)
  assert (result.data.base_size, result.data.crop_size) == (240, 192)
  assert result.train.steps == 96 * derive.PASSES / config.batch_size
  assert result.eval.every_steps == result.checkpoint.every_steps == result.train.steps / 5
  assert result.is_locked
  assert config.train.steps == 0
  result.data.root = "photographs"
  common.validate(result)


@pytest.mark.parametrize(
  ("height", "width", "crop", "base"),
  [(480.0, 640.0, 384, 480), (640, 480, 384, 480), (2000, 3000, 512, 2000), (20, 20, 32, 32)],
)
def test_sizes_follow_the_shorter_side(height, width, crop, base):
  data = finalize(folder.get_config(), median_height=height, median_width=width).data
  assert (data.crop_size, data.base_size) == (crop, base)


def test_steps_grow_with_the_data_up_to_a_limit():
  def steps(num_train_images):
    return finalize(folder.get_config(), num_train_images).train.steps

  batch_size = folder.get_config().batch_size
  assert steps(1_000) == derive.PASSES * 1_000 / batch_size
  assert steps(10_000_000) == derive.MAX_STEPS


def test_given_fields_stay():
  config = folder.get_config()
  config.data.crop_size = 64
  config.train.steps = 7
  config.checkpoint.every_steps = 3
  result = finalize(config)
  assert (result.data.crop_size, result.data.base_size) == (64, 240)
  assert (result.train.steps, result.eval.every_steps, result.checkpoint.every_steps) == (7, 2, 3)


def test_config_without_open_fields_is_unchanged():
  config = shapes_lt.get_config()
  assert finalize(config).to_dict() == config.to_dict()


def test_derived_values_are_logged(caplog):
  with caplog.at_level(logging.INFO, logger="absl"):
    finalize(folder.get_config())
  assert "96 training images of 240 x 320 px" in caplog.text
  assert "data.crop_size=192" in caplog.text


def test_large_images_are_warned_about(caplog):
  with caplog.at_level(logging.WARNING, logger="absl"):
    finalize(folder.get_config(), median_height=2000, median_width=3000)
  assert "median shorter side is 2000 px" in caplog.text


def test_empty_training_split():
  with pytest.raises(ValueError, match="config.data.name='folder' has 0 training images"):
    finalize(folder.get_config(), num_train_images=0)
