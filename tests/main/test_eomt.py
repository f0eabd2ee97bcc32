"""EoMT from the command line: with every method, killed and resumed, evaluated and put to use."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

import ltss_jax
from tests.main import runs

pytestmark = pytest.mark.slow

# Images of 40 x 48 and 44 x 36 px lie in two to four windows of 32 px.
EOMT = (
  "--config.model.name=eomt",
  "--config.model.backbone=dinov2_mini",
  "--config.model.num_queries=8",
  "--config.model.num_blocks=3",  # masks anneal from step 2 to step 10
  "--config.model.class_head=seesaw",
  "--config.loss.class_loss=seesaw",
  "--config.loss.frequency_matcher=true",
  "--config.loss.num_points=64",
  "--config.data.sampler=repeat_factor",
  "--config.data.copy_paste=random",
  "--config.optimizer.name=adamw",
  "--config.optimizer.learning_rate=1e-3",
  "--config.optimizer.layer_decay=0.8",
  "--config.optimizer.schedule=two_stage",
  "--config.optimizer.warmup_steps=2",
  "--config.optimizer.backbone_warmup_steps=3",
  "--config.optimizer.ema_decay=0.9",
  "--config.train.report=true",
)


@pytest.fixture(name="whole", scope="module")
def _whole(folder, data_dir, tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  process = runs.run(folder, data_dir, workdir, *EOMT)
  assert process.returncode == 0, process.stderr
  return workdir


def test_a_killed_training_goes_on_to_the_same_bits(whole, folder, data_dir, tmp_path):
  """Averaged weights, counts of the Seesaw loss and the masks' annealing among them."""
  arguments = (folder, data_dir, tmp_path, *EOMT)
  killed = runs.run(*arguments, moment="the second save")
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  resumed = runs.run(*arguments)
  assert resumed.returncode == 0 and "Continuing from step" in resumed.stderr, resumed.stderr
  state = runs.saved_state(tmp_path)
  assert state["ema"]["params"]["q"]["embedding"].any() and state["stats"]["seesaw_counts"].any()
  runs.assert_same_run(tmp_path, whole)
  assert "eomt" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_saved_step_is_evaluated_again_to_the_same_result(whole, folder, data_dir):
  record = whole / "eval" / f"{runs.NUM_STEPS}.json"
  written = record.read_bytes()
  record.unlink()
  process = runs.run(folder, data_dir, whole, *EOMT, "--mode=evaluate")
  assert process.returncode == 0, process.stderr
  assert record.read_bytes() == written


def test_prediction_the_api_and_the_exported_program_agree(whole, folder, data_dir, tmp_path):
  images = sorted((folder / "images" / "val").glob("*.jpg"))
  labels, exported = tmp_path / "labels", tmp_path / "exported"
  predict = ("--mode=predict", f"--input={folder}/images/val", f"--output={labels}")
  process = runs.run(folder, data_dir, whole, *EOMT, *predict)
  assert process.returncode == 0, process.stderr
  model = ltss_jax.load(whole)
  for path in images:
    predicted = np.array(Image.open(labels / f"{path.stem}.png"))
    np.testing.assert_array_equal(model(path).labels, predicted)
  size = ("--config.export.height=40", "--config.export.width=48")
  export = ("--mode=export", f"--output={exported}", "--config.export.platforms=('cpu',)", *size)
  process = runs.run(folder, data_dir, whole, *EOMT, *export)
  assert process.returncode == 0, process.stderr
  assert "100.0000 % of the pixels the model's label" in process.stderr
  assert json.loads((exported / "metadata.json").read_text())["classes"] == list(model.classes)
