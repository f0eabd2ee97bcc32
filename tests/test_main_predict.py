"""--mode=predict and --checkpoint as users run them: real processes, real files."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from tests import programs, small_models

CLASSES = ("sky", "grass", "roof")


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
  """A user's folder of 1 + 2 images, 40 x 48."""
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for split, count in (("train", 1), ("val", 2)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      label = cv2.resize(rng.integers(0, 3, (4, 4)).astype(np.uint8), (48, 40), interpolation=0)
      image = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
      cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  (root / "classes.txt").write_text("\n".join(CLASSES))
  return root


@pytest.fixture(name="weights", scope="module")
def _weights(tmp_path_factory):
  """Random weights of a small DeepLabV3+, as the conversion writes them."""
  config = folder_config.get_config()
  config.model.update(small_models.DEEPLABV3PLUS)
  directory = tmp_path_factory.mktemp("weights") / "street-model"
  weights = small_models.random_weights(config, len(CLASSES))
  small_models.write_weights(directory, config, weights, num_classes=len(CLASSES))
  return directory


@pytest.fixture(name="run", scope="module")
def _run(root, tmp_path_factory):
  """Returns a function that runs main.py; TensorFlow cannot be imported there."""
  data_dir, blocked = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("blocked")
  prepare = ("folder", f"--root={root}", f"--data_dir={data_dir}")
  programs.run("-m", "input_pipeline.prepare", *prepare, check=True)
  (blocked / "tensorflow.py").write_text("raise ImportError('not needed')\n")
  env = programs.environment(PYTHONPATH=str(blocked))

  def run(*arguments, timeout=None):
    command = ["main.py", "--config=configs/folder.py"]
    command += [f"--config.data.root={root}", f"--config.data.dir={data_dir}"]
    command += [*small_models.flags(small_models.DEEPLABV3PLUS), "--config.eval.batch_size=2"]
    return programs.run(*command, *arguments, env=env, timeout=timeout)

  return run


def make_odd_files(folder):
  """Puts in what is no readable image; returns name -> what is wrong with it."""
  (folder / "broken.txt.png").write_text("no image")
  (folder / "empty.png").write_text("")
  os.mkfifo(folder / "pipe.jpg")
  (folder / "album.jpg").mkdir()
  (folder / "link.jpg").symlink_to("nowhere")
  (folder / os.fsdecode(b"caf\xe9.jpg")).write_text("no image either")
  return {
    "album.jpg": "it is a folder, not a file",
    "broken.txt.png": "no image of a known kind",
    "caf\\xe9.jpg": "no image of a known kind",
    "empty.png": "the file is empty",
    "link.jpg": "it is a link to nowhere, which does not exist",
    "pipe.jpg": "it is a named pipe, not a file",
  }


def test_predict_and_evaluate_with_converted_weights(run, root, weights, tmp_path):
  source, output, workdir = tmp_path / "in", tmp_path / "out", tmp_path / "run"
  shutil.copytree(root / "images" / "val", source)
  for deeper in ("day", "day/noon"):
    (source / deeper).mkdir()
    shutil.copy(source / "0.png", source / deeper / "deeper.png")
  reasons = make_odd_files(source)
  process = run(
    *("--mode=predict", f"--checkpoint={weights}", f"--input={source}", f"--output={output}"),
    timeout=120,  # seconds; a pipe that is opened would take for ever
  )
  assert process.returncode == 1  # because of the files that are no images
  assert "Error: 6 of 8 images were skipped (album.jpg, broken.txt.png, " in process.stderr
  for name, reason in reasons.items():
    assert f"/in/{name}: not a readable image ({reason}); skipped" in process.stderr
  assert f"{source}: 8 images, without 2 in its subfolders, which --input='" in process.stderr
  assert "Traceback" not in process.stderr
  names = sorted(path.name for path in output.iterdir())
  assert names == ["0.png", "0_overlay.png", "1.png", "1_overlay.png"]

  process = run("--mode=evaluate", f"--checkpoint={weights}", f"--workdir={workdir}")
  assert process.returncode == 0, process.stderr
  assert "roof" in process.stdout and "street-model: mIoU" in process.stderr
  record = json.loads((workdir / "eval" / "street-model.json").read_text())
  correct = total = 0
  for i in range(2):  # The label maps that were written have the same accuracy.
    label = np.array(Image.open(root / "annotations" / "val" / f"{i}.png"))
    correct += (label == np.array(Image.open(output / f"{i}.png"))).sum()
    total += label.size
  assert record["pACC"] == pytest.approx(100 * correct / total, abs=1e-4)  # of 4 digits


def test_export_writes_a_program_and_its_check(run, weights, tmp_path):
  output = tmp_path / "exported"
  process = run(
    "--mode=export",
    f"--checkpoint={weights}",
    f"--output={output}",
    "--config.export.height=40",
    "--config.export.width=48",
    "--config.export.platforms=('cpu',)",
  )
  assert process.returncode == 0, process.stderr
  assert "gives 100.0000 % of the pixels the model's label" in process.stderr
  assert {path.name for path in output.iterdir()} == {
    "metadata.json",
    "model.stablehlo",
    "weights.npz",
    "SHA256SUMS",
  }
  metadata = json.loads((output / "metadata.json").read_text())
  assert metadata["classes"] == list(CLASSES) and metadata["platforms"] == ["cpu"]
  wrong = run("--mode=export", f"--checkpoint={weights}", "--output=/proc/none")
  assert wrong.returncode == 1 and wrong.stderr.count("Error: --output=/proc/none cannot") == 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--checkpoint=x"], "training starts from the weights of --config.init.checkpoint=DIR"),
    (["--mode=predict", "--input=x"], "--mode=predict needs --input=... and --output=..."),
    (["--mode=evaluate", "--input=x"], "--input is for --mode=predict, not for evaluate"),
    (["--output=x"], "--output is for --mode=predict, export and report, not for train"),
    (["--mode=export"], "--mode=export needs --output=...; --output is missing"),
    (["--mode=predict", "--runs=x"], "--runs is for --mode=report, not for predict"),
  ],
)
def test_flags_that_do_not_fit_the_mode_end_in_one_message(run, arguments, message):
  process = run(*arguments)
  assert process.returncode == 2
  assert process.stderr.count("\n") == 1 and message in process.stderr
