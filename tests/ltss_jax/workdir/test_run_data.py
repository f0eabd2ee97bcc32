"""The note of a run's data: the same data anywhere pass, other images or classes do not."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from configs import folder as folder_config
from input_pipeline import class_stats
from ltss_jax import dataset as dataset_lib
from ltss_jax.results import evaluated_data
from ltss_jax.workdir import paths, run_data


def write_image(path, seed, color=120):
  """Noise around one grey, as JPEG or PNG or what else the name says."""
  image = np.random.default_rng(seed).normal(color, 20, (16, 24, 3)).clip(0, 255).astype(np.uint8)
  assert cv2.imwrite(str(path), image)


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
  """A folder of 2 + 3 images of three classes; the last one is a BMP, which is stored as PNG."""
  root = tmp_path_factory.mktemp("photos")
  for split, names in (("train", ("0.jpg", "1.png")), ("val", ("0.jpg", "1.png", "2.bmp"))):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i, name in enumerate(names):
      write_image(root / "images" / split / name, i)
      label = np.full((16, 24), i % 2, np.uint8)
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  (root / "classes.txt").write_text("sky\ngrass\nroof\n")
  return root


def load(root, data_dir):
  config = folder_config.get_config()
  config.data.root, config.data.dir = str(root), str(data_dir)
  return dataset_lib.load_dataset(config)


@pytest.fixture(name="data", scope="module")
def _data(root, tmp_path_factory):
  return load(root, tmp_path_factory.mktemp("data"))


def with_training_pixels(data, *pixels):
  """The data with another training split: images of 2 x 4 with so many pixels of one class."""
  rows = [(np.array([0], np.int32), np.array([number])) for number in pixels]
  counts = class_stats.PixelCounts.from_rows([(2, 4)] * len(rows), rows)
  return dataclasses.replace(data, train_counts=counts)


@pytest.fixture(name="copied")
def _copied(root, tmp_path):
  return shutil.copytree(root, tmp_path / "elsewhere")


def test_the_same_data_elsewhere_pass(data, copied, tmp_path):
  elsewhere = load(copied, tmp_path / "data")
  run_data.check(tmp_path, data)  # no note, nothing to compare
  run_data.write(tmp_path, data)
  run_data.check(tmp_path, elsewhere)
  run_data.check_classes(tmp_path, elsewhere.metadata)
  noted = paths.data(tmp_path).read_text()
  run_data.write(tmp_path, elsewhere)
  assert paths.data(tmp_path).read_text() == noted


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"class_names": ("cat", "dog", "cow")},
      r"classes: 3 \(sky, grass, roof\) there, 3 \(cat, dog",
    ),
    ({"ignore_label": 254}, "ignore_label: 255 there, 254 now"),
  ],
)
def test_other_classes_are_refused(data, tmp_path, changes, message):
  run_data.write(tmp_path, data)
  other = dataclasses.replace(data, metadata=dataclasses.replace(data.metadata, **changes))
  for check in (
    lambda: run_data.check(tmp_path, other),
    lambda: run_data.check_classes(tmp_path, other.metadata),
  ):
    with pytest.raises(ValueError, match=message) as error:
      check()
    assert str(tmp_path) in str(error.value)


def test_other_labels_and_a_damaged_note_are_refused(data, tmp_path):
  run_data.write(tmp_path, with_training_pixels(data, 5, 3))
  with pytest.raises(ValueError, match="train_labels: .* there, .* now\n.*another --workdir"):
    run_data.check(tmp_path, with_training_pixels(data, 3, 5))
  with pytest.raises(ValueError, match="train_images: 2 there, 3 now"):
    run_data.check(tmp_path, with_training_pixels(data, 5, 3, 1))
  paths.data(tmp_path).write_text("{")
  with pytest.raises(ValueError, match=r"data\.json is not readable"):
    run_data.check(tmp_path, data)


def differences(data, copied, tmp_path):
  other = run_data.evaluated(load(copied, tmp_path / "data"))
  return evaluated_data.differences(run_data.evaluated(data), other)


def test_evaluated_data_are_the_same_wherever_they_lie(data, copied, tmp_path):
  assert differences(data, copied, tmp_path) == []
  facts = run_data.evaluated(data)
  assert (facts["train_images"], facts["val_images"]) == (2, 3)
  assert facts["name"] == data.metadata.name


@pytest.mark.parametrize("name", ["0.jpg", "1.png", "2.bmp"])
def test_images_of_other_content_with_equal_labels_are_other_data(data, copied, tmp_path, name):
  write_image(copied / "images" / "val" / name, seed=9)
  assert differences(data, copied, tmp_path) == ["val_sample"]


def test_renamed_images_are_other_data(data, copied, tmp_path):
  for kind, suffix in (("images", ".bmp"), ("annotations", ".png")):
    path = copied / kind / "val" / f"2{suffix}"
    path.rename(path.with_stem("3"))
  assert "val_sample" in differences(data, copied, tmp_path)


def test_a_png_that_was_encoded_in_another_way_is_the_same_image(data, copied, tmp_path):
  path = copied / "images" / "val" / "1.png"
  before = path.read_bytes()
  assert cv2.imwrite(str(path), cv2.imread(str(path)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
  assert path.read_bytes() != before
  assert differences(data, copied, tmp_path) == []


def test_other_labels_of_either_split_are_other_data(data, copied, tmp_path):
  label = np.full((16, 24), 2, np.uint8)
  cv2.imwrite(str(copied / "annotations" / "val" / "0.png"), label)
  assert differences(data, copied, tmp_path) == ["val_labels"]
  facts = run_data.evaluated(data)
  other = run_data.evaluated(with_training_pixels(data, 5, 3))
  assert evaluated_data.differences(facts, other) == ["train_labels"]
