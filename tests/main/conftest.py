"""What the tests of main.py share: a folder of photographs, prepared, and a training on it."""

import cv2
import numpy as np
import pytest

from tests import programs
from tests.main import runs


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """A user's folder: 12 + 7 small images of two sizes, classes told apart by colour."""
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  colors = np.array([[40, 40, 200], [60, 200, 60], [220, 80, 40]])
  for split, count in (("train", 12), ("val", 7)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      height, width = [(40, 48), (44, 36)][i % 2]
      label = cv2.resize(
        rng.integers(0, 3, (4, 4)).astype(np.uint8), (width, height), interpolation=0
      )
      image = np.clip(colors[label] + rng.normal(0, 12, (height, width, 3)), 0, 255)
      label[:2] = 255
      cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), image.astype(np.uint8))
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  (root / "classes.txt").write_text("sky\ngrass\nroof\n")
  return root


@pytest.fixture(scope="session")
def data_dir(folder, tmp_path_factory):
  """Where all runs of the module find the prepared folder."""
  directory = tmp_path_factory.mktemp("data")
  arguments = ("folder", f"--root={folder}", f"--data_dir={directory}")
  programs.run("-m", "input_pipeline.prepare", *arguments, check=True)
  return directory


@pytest.fixture(scope="session")
def reference(folder, data_dir, tmp_path_factory):
  """The workdir and the output of an uninterrupted run on one device."""
  workdir = tmp_path_factory.mktemp("runs") / "reference"
  extras = ("--config.train.report=true", "--config.train.log_images_every_steps=6")
  extras += ("--config.train.profile_steps=(5,6)",)
  process = runs.run(folder, data_dir, workdir, *extras)
  assert process.returncode == 0, process.stderr
  return workdir, process
