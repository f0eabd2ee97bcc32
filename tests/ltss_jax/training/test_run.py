"""What the training says before it starts."""

import pytest

from configs import mhp_v2_lt
from input_pipeline import datasets
from ltss_jax import build
from ltss_jax.losses import class_losses
from ltss_jax.training import run

STATS = datasets.find_spec("mhp_v2_lt").official_stats


def warning(caplog, config, loss):
  caplog.clear()
  with caplog.at_level("WARNING", "absl"):
    run._warn_of_mining(config, loss)
  return caplog.text


@pytest.mark.parametrize("name", class_losses.NAMES)
def test_losses_that_favour_rare_classes_are_warned_about_with_mining(caplog, name):
  config = mhp_v2_lt.get_config("model=deeplabv3plus")
  config.loss.class_loss = name
  loss = build.class_loss(config, STATS)
  text = warning(caplog, config, loss)
  assert ("favours rare classes twice" in text) == loss.favours_rare_classes
  if loss.favours_rare_classes:
    assert f"config.loss.class_loss={name} " in text and "hard_pixel_fraction=0.2" in text
  config.loss.hard_pixel_fraction = 1.0
  assert not warning(caplog, config, loss)
  config = mhp_v2_lt.get_config()  # Mask2Former, which mines no pixels
  assert not warning(caplog, config, loss)


@pytest.mark.parametrize("favours", [True, False])
def test_a_loss_that_is_added_says_so_itself(caplog, monkeypatch, favours):
  monkeypatch.setitem(class_losses._KINDS, "later", class_losses._Kind(favours, ()))
  config = mhp_v2_lt.get_config("model=deeplabv3plus")
  text = warning(caplog, config, class_losses.ClassLoss("later"))
  assert ("config.loss.class_loss=later" in text) == favours
