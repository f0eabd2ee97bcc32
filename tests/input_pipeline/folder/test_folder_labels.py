"""Folders whose labels an optimizer has been over, from the files to the prepared counts."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from input_pipeline import prepared
from input_pipeline.folder import prepare
from tests import image_bytes

CAMVID = pathlib.Path(
  os.environ.get("LTSS_CAMVID_SMALL", pathlib.Path(__file__).parents[4] / "shared" / "camvid_small")
)


def write_folder(root, labels, classes):
  """A data set of these labels, the last of which is its validation split."""
  for index, label in enumerate(labels):
    split = "val" if index == len(labels) - 1 else "train"
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", label.shape[::-1], (index, 9, 9)).save(root / f"images/{split}/{index}.jpg")
    (root / f"annotations/{split}/{index}.png").write_bytes(image_bytes.png(label, 8))
  (root / "classes.txt").write_text("\n".join(classes))


def label_files(root):
  return sorted((root / "annotations").rglob("*.png"))


def total_counts(directory):
  """Pixels of every class in both splits."""
  counts = np.zeros(256, int)
  for split in prepared.SPLITS:
    of = prepared.read_pixel_counts(directory, split)
    np.add.at(counts, of.class_ids, of.pixels)
  return counts[: prepared.read_metadata(directory).num_classes].tolist()


def optimize_in_place(paths):
  for path in paths:
    path.write_bytes(image_bytes.optimize(path.read_bytes()))


def test_half_of_the_labels_optimized(tmp_path):
  """Three classes; in every second label, one class and what is ignored."""
  root = tmp_path / "photos"
  halves = np.zeros((48, 64), np.uint8)
  halves[:, 32:] = 255
  thirds = np.repeat(np.arange(3, dtype=np.uint8), 16)[:, None].repeat(64, axis=1)
  write_folder(root, [thirds, halves] * 3, ("ground", "bush", "bird"))
  before = prepare.prepare_folder(tmp_path / "data", root, 255)
  assert total_counts(before) == [3 * (1024 + 1536), 3072, 3072]
  optimize_in_place(label_files(root))
  with pytest.raises(ValueError) as error:
    prepare.prepare_folder(tmp_path / "data", root, 255)
  lines = str(error.value).splitlines()
  assert lines[0].startswith("3 label PNGs can be read in more than one way")
  assert [line.split("/")[-1] for line in lines[1:4]] == [
    f"{name}.png: 1 bit, grey: {{0, 1}} as stored or {{0, 255}} as grey values of 8 bits"
    for name in (1, 3, 5)
  ]
  for path in label_files(root):  # what docs/data.md says
    Image.open(path).convert("L").save(path)
  again = prepare.prepare_folder(tmp_path / "data", root, 255)
  assert total_counts(again) == [3 * (1024 + 1536), 3072, 3072]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_plain_labels_of_stored_numbers(tmp_path, depth):
  """The other line that docs/data.md gives; Pillow stretches 2 and 4 bits."""
  numbers = np.random.default_rng(0).integers(0, 2**depth, (9, 7))
  stretch = {1: 1, 2: 85, 4: 17}[depth]
  path = tmp_path / "a.png"
  path.write_bytes(image_bytes.png(numbers, depth))
  np.testing.assert_array_equal(np.array(Image.open(path), np.uint8) // stretch, numbers)
  path.write_bytes(image_bytes.png(numbers, depth, palette=np.arange(3 * 2**depth).reshape(-1, 3)))
  np.testing.assert_array_equal(np.array(Image.open(path), np.uint8), numbers)


def test_masks_of_1_bit_are_two_classes(tmp_path, caplog):
  root = tmp_path / "masks"
  mask = np.zeros((20, 30), np.uint8)
  mask[5:15] = 1
  write_folder(root, [mask, mask, 0 * mask, mask], ("ground", "bush"))
  expected = total_counts(prepare.prepare_folder(tmp_path / "data", root, 255))
  for path in label_files(root):
    Image.fromarray(np.array(Image.open(path)) > 0).save(path)
    assert path.read_bytes()[24] == 1
  caplog.clear()
  assert total_counts(prepare.prepare_folder(tmp_path / "data", root, 255)) == expected
  assert expected == [2400 - 900, 900]
  assert [line for line in caplog.messages if "custom data configuration" not in line] == []


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"the photographs are not in {CAMVID}")
def test_real_photographs_before_and_after_an_optimizer(tmp_path):
  root = tmp_path / CAMVID.name
  shutil.copytree(CAMVID, root)
  before = total_counts(prepare.prepare_folder(tmp_path / "data", root, 255))
  optimize_in_place(label_files(root))
  assert any(path.read_bytes()[25] == 3 for path in label_files(root))
  assert total_counts(prepare.prepare_folder(tmp_path / "data", root, 255)) == before
