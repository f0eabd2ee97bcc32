"""The ignore label that nobody names follows from the number of classes."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline import class_stats, prepared
from input_pipeline.folder import layout, prepare
from tests import programs


def make_folder(root, num_classes, label):
  """Two training images and a validation image, all with the label map [H, W]."""
  for split, names in (("train", "ab"), ("val", "c")):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for name in names:
      grey = Image.new("RGB", label.shape[::-1], (90, 90, 90))
      grey.save(root / "images" / split / f"{name}.jpg")
      Image.fromarray(label).save(root / "annotations" / split / f"{name}.png")
  (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(num_classes)))
  return root


def label_map(last_class, ignore_label, dtype):
  """10 x 20 pixels: 60 of class 0, 40 of the last class, 100 of none."""
  label = np.full((10, 20), ignore_label, dtype)
  label[:3], label[3:5] = 0, last_class
  return label


def times(directory):
  return {path.name: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()}


@pytest.mark.parametrize(
  ("num_classes", "ignore_label", "dtype"),
  [(255, 255, np.uint8), (256, 65535, np.uint16), (300, 65535, np.uint16)],
)
def test_it_is_the_largest_of_8_bits_or_of_16(tmp_path, num_classes, ignore_label, dtype):
  label = label_map(num_classes - 1, ignore_label, dtype)
  root = make_folder(tmp_path / "photos", num_classes, label)
  directory = prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES)
  metadata = prepared.read_metadata(directory)
  assert (metadata.num_classes, metadata.ignore_label) == (num_classes, ignore_label)
  stored = prepared.open_source(directory, "train")[0]["label"]
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored))), label)
  counts = prepared.read_pixel_counts(directory, "train")
  stats = class_stats.class_stats(counts, num_classes)
  assert np.flatnonzero(stats.images_with_class).tolist() == [0, num_classes - 1]
  np.testing.assert_allclose(stats.pixel_share_sum[[0, -1]], [2 * 0.3, 2 * 0.2])
  # Whoever named that label before has the same data, and those who do not have them without work.
  before = times(directory)
  assert prepare.prepare_folder(tmp_path / "data", root, ignore_label) == directory
  assert times(directory) == before


def test_with_256_classes_255_is_one_in_8_bits_too(tmp_path):
  root = make_folder(tmp_path / "photos", 256, label_map(255, 7, np.uint8))
  directory = prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES)
  counts = prepared.read_pixel_counts(directory, "val")
  present = class_stats.class_stats(counts, 256).images_with_class
  assert np.flatnonzero(present).tolist() == [0, 7, 255]


def test_the_other_one_is_no_label(tmp_path):
  root = make_folder(tmp_path / "photos", 255, label_map(254, 65535, np.uint16))
  with pytest.raises(ValueError, match=r"a\.png.*65535"):
    prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES)
  root = make_folder(tmp_path / "many", 300, label_map(299, 1000, np.uint16))
  with pytest.raises(ValueError, match=r"a\.png.*1000"):
    prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES)
  directory = prepare.prepare_folder(tmp_path / "data", root, 1000)
  assert prepared.read_metadata(directory).ignore_label == 1000


def test_without_the_folder_the_prepared_one_must_be_meant(tmp_path):
  root = make_folder(tmp_path / "photos", 300, label_map(299, 65535, np.uint16))
  directory = prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES)
  root.rename(tmp_path / "gone")
  assert prepare.prepare_folder(tmp_path / "data", root, layout.BY_CLASSES) == directory
  with pytest.raises(ValueError, match="ignore label 65535, not 255, and its folder .* is gone"):
    prepare.prepare_folder(tmp_path / "data", root, 255)


def test_more_classes_than_labels_are_named(tmp_path):
  (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(65536)))
  with pytest.raises(ValueError, match=r"classes\.txt names 65536 classes: .* at most 65535"):
    layout.read_classes(tmp_path, layout.BY_CLASSES)


def test_the_command_needs_no_flag_for_300_classes(tmp_path):
  root = make_folder(tmp_path / "photos", 300, label_map(299, 65535, np.uint16))
  arguments = ("folder", f"--root={root}", f"--data_dir={tmp_path / 'data'}")
  done = programs.run("-m", "input_pipeline.prepare", *arguments, check=True)
  assert "photos: 300 classes in" in done.stdout
  assert "298 classes without an image" in done.stdout
