"""A small prepared data set, made once for all tests of this folder."""

import numpy as np
import pytest
from PIL import Image

from tests import programs

# Rows of the label maps, 2 px high and 4 px wide; class 2 occurs in no training image.
LABELS = {
  "train": ([0, 0, 1, 1], [0, 0, 0, 255], [0, 1, 1, 3], [0, 0, 0, 0]),
  "val": ([0, 1, 2, 3],),
}


@pytest.fixture(scope="session")
def prepared_directory(tmp_path_factory):
  """Four training images and one for validation, four classes."""
  folder = tmp_path_factory.mktemp("raw") / "photos"
  for split, rows in LABELS.items():
    for part in ("images", "annotations"):
      (folder / part / split).mkdir(parents=True)
    for index, row in enumerate(rows):
      label = Image.fromarray(np.array([row, row], np.uint8))
      label.convert("RGB").save(folder / "images" / split / f"{index}.png")
      label.save(folder / "annotations" / split / f"{index}.png")
  (folder / "classes.txt").write_text("wall\nsea\nbird\nStraße\n", encoding="utf-8")
  data_dir = tmp_path_factory.mktemp("data")
  arguments = ("folder", f"--root={folder}", f"--data_dir={data_dir}")
  programs.run("-m", "input_pipeline.prepare", *arguments, check=True)
  (file,) = data_dir.rglob("classes.json")
  return file.parent
