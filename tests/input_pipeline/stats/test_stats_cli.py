import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import programs


def run(*arguments):
  """Runs the command and returns (exit status, stdout, stderr)."""
  done = programs.run("-m", "input_pipeline.stats", *arguments)
  return done.returncode, done.stdout, done.stderr


def read_plot(path):
  """Decodes a plot and checks that something is drawn on it; uint8 [H, W, 3]."""
  with Image.open(path) as image:
    assert image.format == "PNG"
    pixels = np.asarray(image.convert("RGB"))
  assert min(pixels.shape[:2]) >= 400
  assert 0.02 < np.mean(np.any(pixels != 255, axis=-1)) < 0.9
  return pixels


def test_prepared_data(prepared_directory, tmp_path):
  output = tmp_path / "new" / "statistics"
  status, stdout, stderr = run(prepared_directory, f"--output_dir={output}")
  assert status == 0, stderr
  assert stdout.startswith("photos: 4 classes, groups by the counts of the training split\n")
  assert "train: 4 images, 1.75 classes an image, 1 classes without an image\n" in stdout
  assert "  image level: Gini 0.4643, rare/common/frequent 0/1/3" in stdout
  assert "    3 Straße " in stdout
  assert {path.name for path in output.iterdir()} == {
    "statistics.json",
    "class_frequency.png",
    "lorenz.png",
    "images_per_number_of_classes.png",
  }
  summary = json.loads((output / "statistics.json").read_text(encoding="utf-8"))
  assert summary["name"] == "photos"
  assert [row["train_images"] for row in summary["classes"]] == [4, 2, 0, 1]
  assert summary["splits"]["train"]["pixel_level"]["gini"] == pytest.approx(0.55)
  plots = {path.stem: read_plot(path) for path in output.glob("*.png")}
  assert plots["class_frequency"].shape == (450, 1100, 3)


def test_official_table_alone(tmp_path):
  status, stdout, stderr = run("coco_stuff_lt", f"--output_dir={tmp_path}")
  assert status == 0, stderr
  assert "image level: Gini 0.6693, rare/common/frequent 34/34/103" in stdout
  assert "pixel level: Gini 0.7729, rare/common/frequent 34/34/103" in stdout
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "class_frequency.png",
    "lorenz.png",
    "statistics.json",
  ]
  frequency = read_plot(tmp_path / "class_frequency.png")
  for color in ((0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)):  # one a group
    assert np.sum(np.all(frequency == color, axis=-1)) > 1000
  read_plot(tmp_path / "lorenz.png")


def test_reader_that_stops_early_is_no_error(tmp_path):
  command = f"{sys.executable} -m input_pipeline.stats ade20k_full --output_dir={tmp_path}"
  done = subprocess.run(
    ["bash", "-c", f"{command} | head -n 1"],
    cwd=programs.REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == "ade20k_full: 847 classes, groups by the counts of the official table\n"
  assert "Error" not in done.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "Name one data set"),
    (["a", "b"], "Name one data set, got ['a', 'b']"),
    (["coco_stuf_lt"], "did you mean 'coco_stuff_lt'"),
    (["/nowhere/1.0.0"], "'/nowhere/1.0.0' is neither a directory"),
    (["coco_stuff"], "No official counts are published for coco_stuff"),
    (["docs"], "docs holds no complete prepared data set; missing: classes.json"),
  ],
)
def test_wrong_use_gives_one_message(tmp_path, arguments, message):
  status, stdout, stderr = run(*arguments, f"--output_dir={tmp_path}")
  assert status in (1, 2)
  assert stdout == ""
  assert message in stderr and "Traceback" not in stderr
  assert list(tmp_path.iterdir()) == []
