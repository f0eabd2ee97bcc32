"""Which statistics a run is judged by."""

import shutil

import cv2
import numpy as np
import pytest

from configs import coco_stuff_lt, folder, shapes_lt
from input_pipeline import class_stats, class_tables, prepare, prepared
from ltss_jax import dataset


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
  """A folder of 3 + 1 images, 20 x 30, of two classes."""
  root = tmp_path_factory.mktemp("photos")
  (root / "classes.txt").write_text("left\nright\n")
  for split, count in (("train", 3), ("val", 1)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      label = np.zeros((20, 30), np.uint8)
      label[:, 10 * i :] = 1
      cv2.imwrite(str(root / "images" / split / f"{i}.png"), np.zeros((20, 30, 3), np.uint8))
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  return root


def test_a_folder_is_judged_by_its_own_statistics_and_fills_the_config(root, tmp_path):
  config = folder.get_config()
  config.data.root, config.data.dir = str(root), str(tmp_path)
  resolved, data = dataset.prepare_run(config)
  assert data.metadata.class_names == ("left", "right")
  np.testing.assert_array_equal(data.train_stats.images_with_class, [2, 3])
  np.testing.assert_allclose(data.train_stats.pixel_share_sum, [1.0, 2.0])
  assert resolved.data.base_size == 32  # the median shorter side is 20, the least that fits is 32
  assert resolved.train.steps > 0 and config.train.steps == 0
  assert len(data.val_counts) == 1


def test_official_statistics_come_before_those_of_the_data(root, tmp_path):
  made = prepare.ensure_prepared("folder", tmp_path, str(root))
  target = tmp_path / "coco_stuff_lt" / "1.0.0"
  shutil.copytree(made, target)
  table = class_tables.load_class_table("coco_stuff_lt")
  prepared.write_metadata(target, table.metadata)
  config = coco_stuff_lt.get_config()
  config.data.dir = str(tmp_path)
  data = dataset.load_dataset(config)
  assert data.train_stats.num_images == 40_679
  sizes = np.bincount(data.image_groups, minlength=3)
  assert dict(zip(class_stats.GROUP_NAMES, sizes.tolist(), strict=True)) == {
    "rare": 34,
    "common": 34,
    "frequent": 103,
  }


def test_published_class_names_need_no_data(tmp_path):
  config = coco_stuff_lt.get_config()
  config.data.dir = str(tmp_path)
  table = class_tables.load_class_table("coco_stuff_lt")
  assert dataset.class_metadata(config) == table.metadata
  assert list(tmp_path.iterdir()) == []


def test_class_names_of_shapes_lt_are_not_drawn_for(tmp_path):
  config = shapes_lt.get_config()
  config.data.dir = str(tmp_path)
  assert dataset.class_metadata(config).num_classes == 24
  assert list(tmp_path.iterdir()) == []


def test_class_names_of_a_folder_need_its_classes_or_its_prepared_data(root, tmp_path):
  config = folder.get_config()
  config.data.dir = str(tmp_path / "data")
  config.data.root = str(tmp_path / "photos")
  shutil.copytree(root, tmp_path / "photos")
  expected = dataset.load_dataset(config).metadata
  assert expected.class_names == ("left", "right")
  shutil.rmtree(tmp_path / "photos")
  assert dataset.class_metadata(config) == expected
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "classes.txt").write_text("left\nright\n")
  shutil.rmtree(tmp_path / "data")
  assert dataset.class_metadata(config) == expected
  config.data.root = str(tmp_path / "none")
  with pytest.raises(FileNotFoundError, match="none does not exist"):
    dataset.class_metadata(config)


def test_data_that_are_not_there_are_named(tmp_path):
  config = coco_stuff_lt.get_config()
  config.data.dir = str(tmp_path)
  with pytest.raises(FileNotFoundError, match="coco_stuff_lt is not prepared"):
    dataset.load_dataset(config)
