"""Published data sets whose labels an optimizer has been over."""

import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.prepare import published
from tests import image_bytes

FOLDERS = {
  "ade20k": "ADEChallengeData2016/{kind}/{split}",
  "coco_stuff": "{kind}/{split}2017",
  "mhp_v2": "LV-MHP-v2/{split}_{kind}",
}
KINDS = {
  "ade20k": ("images", "annotations"),
  "coco_stuff": ("images", "stuffthingmaps_trainval2017"),
  "mhp_v2": ("img", "seg"),
}
SPLITS = {"ade20k": ("training", "validation")}


def write(root, name, labels, raw_files):
  """Writes a data set of these labels, the last of which is for validation; returns their paths."""
  paths = []
  for index, label in enumerate(labels):
    split = SPLITS.get(name, ("train", "val"))[index == len(labels) - 1]
    images, annotations = (
      root / FOLDERS[name].format(kind=kind, split=split) for kind in KINDS[name]
    )
    raw_files.jpeg(images / f"{index}.jpg", *label.shape)
    raw_files.png(annotations / f"{index}.png", label)
    paths.append(annotations / f"{index}.png")
  return paths


def label(*values):
  pixels = np.random.default_rng(len(values)).choice(values, (16, 20)).astype(np.uint8)
  pixels[:6] = values[0]
  return pixels


def counts(directory):
  rows = [prepared.read_pixel_counts(directory, split) for split in prepared.SPLITS]
  return [(row.class_ids.tolist(), row.pixels.tolist()) for row in rows]


@pytest.mark.parametrize("name", FOLDERS)
def test_optimized_labels_are_read_as_before_or_refused(tmp_path, raw_files, name):
  empty = 0 if name == "ade20k" else 255  # pixels without a class
  labels = [label(9, 4, 30), label(4, 9), label(30, 4, empty), label(7), label(20, 9, 4)]
  paths = write(tmp_path, name, labels, raw_files)
  before = published.prepare_published(name, str(tmp_path), tmp_path / "before")
  for path in paths:
    path.write_bytes(image_bytes.optimize(path.read_bytes()))
    assert path.read_bytes()[25] == 3  # a palette
  after = published.prepare_published(name, str(tmp_path), tmp_path / "after")
  assert counts(after) == counts(before)
  for path, values in zip(paths, labels, strict=True):
    raw_files.png(path, values)
  paths[1].write_bytes(image_bytes.png(label(0, 1), 2))
  if name == "mhp_v2":  # has no class 85
    published.prepare_published(name, str(tmp_path), tmp_path / "last")
  else:
    with pytest.raises(ValueError, match=r"1\.png: 2 bits, grey: .* or \{0, 85\} as grey"):
      published.prepare_published(name, str(tmp_path), tmp_path / "last")
