"""The study as its users run it: real processes that train, from any directory."""

import json
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from ltss_jax.workdir import atomic_file
from tests import programs, small_models

NUM_STEPS = 6
# Small enough to compile in seconds.
SMALL = (
  *small_models.flags(small_models.DEEPLABV3PLUS),
  "--config.data.crop_size=32",
  "--config.data.num_workers=0",
  "--noconfig.data.flip",
  "--config.batch_size=2",
  "--config.eval.batch_size=2",
  f"--config.train.steps={NUM_STEPS}",
  "--config.train.log_every_steps=1",
  "--config.eval.every_steps=3",
  "--config.checkpoint.every_steps=100",
)


@pytest.fixture(name="photos", scope="module")
def make_photos(tmp_path_factory):
  """A user's folder: four training images and two others, of two classes told apart by colour."""
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for split, count in (("train", 4), ("val", 2)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      label = np.kron(rng.integers(0, 2, (4, 4)), np.ones((10, 10))).astype(np.uint8)
      image = np.clip(60 + 120 * label[..., None] + rng.normal(0, 9, (40, 40, 3)), 0, 255)
      Image.fromarray(image.astype(np.uint8)).save(root / "images" / split / f"{i}.png")
      Image.fromarray(label).save(root / "annotations" / split / f"{i}.png")
  (root / "classes.txt").write_text("sky\ngrass\n")
  return root


@pytest.fixture(name="start")
def make_start(photos, tmp_path):
  """Returns a function that starts a study from a directory other than the repository's."""
  env = programs.environment(PYTHONPATH=str(programs.REPOSITORY))

  def start(*arguments, config=f"{programs.REPOSITORY}/configs/folder.py"):
    command = ["-m", "ltss_jax.study", f"--config={config}", f"--config.data.root={photos}"]
    # Tests that a shell runs in the background ignore SIGINT, and so would the process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      return programs.start(*command, *arguments, cwd=tmp_path, env=env)
    finally:
      signal.signal(signal.SIGINT, before)

  return start


def ended(process):
  """(exit code, stdout, stderr)."""
  output, errors = process.communicate(timeout=180)
  return process.returncode, output, errors


def wait_for(process, path, text):
  while not (path.exists() and text in path.read_text()):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)


def test_a_study_is_stopped_goes_on_and_reports(start, tmp_path):
  arguments = ("--methods=baseline,rfs", "--seeds=3", *SMALL)
  study = tmp_path / "runs" / "study" / "folder"
  log = study / "logs" / "baseline_3.txt"

  process = start(*arguments)
  # The evaluation of step 3, which is compiled first, leaves the signal time to arrive.
  wait_for(process, log, f"step 1/{NUM_STEPS}")
  process.send_signal(signal.SIGINT)
  code, output, errors = ended(process)
  assert code == 128 + signal.SIGINT, errors
  assert output == ""
  assert "Stopped by SIGINT; the same command goes on" in errors
  stopped = int(re.search(r"Asked to stop: saved step (\d+)", log.read_text())[1])
  assert 1 <= stopped < NUM_STEPS
  assert not (study / "results").exists()

  code, output, errors = ended(start(*arguments))
  assert code == 0, errors
  assert f"Continuing from step {stopped}" in log.read_text()
  assert "[1/2] baseline, seed 3: started" in errors
  assert re.search(r"1 runs left, ETA 0:\d\d:\d\d", errors)
  assert "[2/2] rfs, seed 3: 0." in errors
  for method, attempts in (("baseline", 2), ("rfs", 1)):
    result = atomic_file.read_json(study / "results" / f"{method}_3.json")
    assert (result["method"], result["seed"], result["steps"]) == (method, 3, NUM_STEPS)
    assert result["overrides"]["model.aspp_dilations"] == [1]
    assert result["overrides"]["data.flip"] is False
    assert len(result["attempts"]) == attempts
    assert result["seconds"] == pytest.approx(sum(a["seconds"] for a in result["attempts"]))
    assert result["machine"]["devices"] == "1 x cpu"
    run = study / "runs" / method / "3"
    assert result["record"] == atomic_file.read_json(run / "eval" / f"{NUM_STEPS}.json")
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 3
    assert config["data"]["sampler"] == {"baseline": "uniform", "rfs": "repeat_factor"}[method]
  assert output == (study / "table.md").read_text() + "\n"
  assert "| rfs | 1 |" in output
  assert {path.name for path in study.glob("*.png")} == {
    "iou_by_frequency.png",
    "groups.png",
    "gain_by_frequency.png",
  }

  # Finished runs are left alone; the report needs no run; another config is refused.
  code, output, errors = ended(start(*arguments))
  assert (code, "2 of 2 runs have finished already" in errors) == (0, True)
  (study / "table.md").unlink()
  assert ended(start("--report_only"))[:2] == (0, output)
  assert (study / "table.md").exists()
  code, output, errors = ended(start(*arguments, "--config.batch_size=4"))
  assert (code, output) == (1, "")
  assert "config.batch_size: 2 there, 4 now" in errors
  code, output, errors = ended(start(*arguments, "--config.eval.logit_adjustment=1.0"))
  assert "config.eval.logit_adjustment=0.0, and now it is 1.0" in errors


def test_a_failed_run_is_reported_and_the_others_go_on(start, tmp_path):
  (tmp_path / "empty").mkdir()
  process = start("--methods=baseline,rfs", "--seeds=0", "--config.data.root=empty", *SMALL)
  code, output, errors = ended(process)
  assert (code, output) == (1, "")
  assert re.search(
    r"\[1/2\] baseline, seed 0: failed with exit code 1\. The end of .*:\n  ", errors
  )
  assert re.search(r"  Error: .*empty", errors)
  assert "2 of 2 runs failed: baseline_0, rfs_0. The same command tries them again." in errors
  lines = (tmp_path / "runs/study/folder/attempts.jsonl").read_text().splitlines()
  assert [json.loads(line)["exit_code"] for line in lines] == [1, 1]


@pytest.mark.parametrize(
  ("arguments", "code", "message"),
  [
    ((), 1, "Error: give --methods, as in --methods=baseline,rfs+copy_paste, or --report_only"),
    (("--report_only",), 1, "runs/study/folder holds no finished run yet"),
    (("--methods=rsf",), 1, "nearest valid: 'rfs'"),
    (("--methods=frequency_matcher",), 1, "method 'frequency_matcher' does not fit: config.loss"),
    (("--config.batch_sze=1",), 2, "study: config.batch_sze is no field"),
  ],
)
def test_wrong_command_line_starts_nothing(start, tmp_path, arguments, code, message):
  found, output, errors = ended(start(*arguments))
  assert (found, output) == (code, "")
  assert message in errors
  assert "Traceback" not in errors
  assert not (tmp_path / "runs").exists()
