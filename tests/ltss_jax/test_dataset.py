"""Which statistics a run is judged by."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from configs import coco_stuff_lt, folder, mhp_v2, shapes_lt
from input_pipeline import class_stats, datasets, pipeline, prepare, prepared
from input_pipeline.prepare import command, subset
from ltss_jax import build, dataset
from ltss_jax.workdir import run_config, run_data


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


def test_values_that_the_data_give_fit_those_of_the_config(root, tmp_path):
  config = folder.get_config()
  config.data.root, config.data.dir = str(root), str(tmp_path)
  config.optimizer.update(schedule="two_stage", warmup_steps=200, backbone_warmup_steps=400)
  with pytest.raises(ValueError, match=r"warmup_steps=400 must .* config\.train\.steps=600"):
    dataset.prepare_run(config)
  config.optimizer.backbone_warmup_steps = 399
  dataset.prepare_run(config)


@pytest.mark.parametrize(("num_classes", "ignore_label"), [(2, 255), (300, 65535)])
def test_a_folder_says_which_label_it_ignores(root, tmp_path, num_classes, ignore_label):
  """In the resolved config, in data.json and in the stream, and a run goes on with it."""
  photos = tmp_path / "photos"
  shutil.copytree(root, photos)
  (photos / "classes.txt").write_text("\n".join(f"class {i}" for i in range(num_classes)))
  if num_classes > 255:
    for path in photos.glob("annotations/*/*.png"):
      label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16)
      label[:5], label[5:10] = 299, 65535
      cv2.imwrite(str(path), label)
  config = folder.get_config()
  config.data.root, config.data.dir = str(photos), str(tmp_path / "data")
  resolved, data = dataset.prepare_run(config)
  assert resolved.data.ignore_label == data.metadata.ignore_label == ignore_label
  assert config.data.ignore_label == -1
  assert dataset.class_metadata(config).ignore_label == ignore_label
  stream = build.train_pipeline_config(resolved, data, max_targets=0)
  sizes = dataclasses.replace(stream.augmentation, crop_size=64, max_size=40)
  stream = dataclasses.replace(stream, batch_size=3, num_workers=0, augmentation=sizes)
  batch = pipeline.TrainBatches(prepared.open_source(data.directory, "train"), stream)[0]
  assert batch["label"].dtype == (np.uint8 if ignore_label == 255 else np.uint16)
  assert (batch["label"][:, -1] == ignore_label).all()  # padding below the enlarged images
  run_config.write(tmp_path, resolved)
  run_data.write(tmp_path, data)
  for value in (-1, ignore_label):  # as before it could be left out, too
    config.data.ignore_label = value
    again, data = dataset.prepare_run(config)
    run_config.check(tmp_path, again)
    run_data.check(tmp_path, data)
  run_config.check(tmp_path, dataset.prepare_run(config)[0], evaluating=True)


def test_another_ignore_label_is_other_data(root, tmp_path):
  config = folder.get_config()
  config.data.root, config.data.dir = str(root), str(tmp_path / "data")
  _, data = dataset.prepare_run(config)
  run_data.write(tmp_path, data)
  config.data.ignore_label = 7
  _, data = dataset.prepare_run(config)
  with pytest.raises(ValueError, match="ignore_label: 255 there, 7 now"):
    run_data.check(tmp_path, data)


def test_official_statistics_come_before_those_of_the_data(root, tmp_path):
  made = prepare.ensure_prepared("folder", tmp_path, str(root))
  target = tmp_path / "coco_stuff_lt" / "1.0.0"
  shutil.copytree(made, target)
  table = datasets.find_spec("coco_stuff_lt").class_table
  prepared.write_metadata(target, table.metadata)
  prepared.write_sums(target)
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
  table = datasets.find_spec("coco_stuff_lt").class_table
  assert dataset.class_metadata(config) == table.metadata
  assert list(tmp_path.iterdir()) == []


def test_published_statistics_need_no_data(root, tmp_path):
  config = coco_stuff_lt.get_config()
  config.data.dir = str(tmp_path / "none")
  assert dataset.train_stats(config).num_images == 40_679
  config = folder.get_config()
  config.data.dir, config.data.root = str(tmp_path / "made"), str(root)
  np.testing.assert_array_equal(dataset.train_stats(config).images_with_class, [2, 3])


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


def test_published_data_and_long_tailed_parts_are_found(tmp_path):
  for split in ("train", "val"):
    for kind in ("img", "seg"):
      (tmp_path / "raw" / "LV-MHP-v2" / f"{split}_{kind}").mkdir(parents=True)
    for i in range(3):
      top = tmp_path / "raw" / "LV-MHP-v2"
      cv2.imwrite(str(top / f"{split}_img" / f"{i}.jpg"), np.zeros((20, 30, 3), np.uint8))
      cv2.imwrite(str(top / f"{split}_seg" / f"{i}.png"), np.full((20, 30), i, np.uint8))
  (tmp_path / "list.txt").write_text("0.jpg\n2.jpg\n")
  request = command.Request(
    name="mhp_v2_lt",
    data_dir=str(tmp_path / "data"),
    raw_dir=str(tmp_path / "raw"),
    choice=subset.Choice(image_list=str(tmp_path / "list.txt")),
  )
  command.prepare(request)
  config = mhp_v2.get_config()
  config.data.dir = str(tmp_path / "data")
  data = dataset.load_dataset(config)
  assert (data.metadata.name, len(data.train_counts), len(data.val_counts)) == ("mhp_v2", 3, 3)
  assert data.train_stats.num_images == 3  # MHP-v2 has no published statistics
  config.data.name = "mhp_v2_lt"
  data = dataset.load_dataset(config)
  assert (len(data.train_counts), data.train_stats.num_images) == (2, 6_931)
  # The published statistics of a data set are not those of a part that was made of it.
  (tmp_path / "list.txt").write_text("2.jpg\n")
  part = command.prepare(dataclasses.replace(request, make_long_tailed=True))
  config.data.dir = str(part.parents[1])
  data = dataset.load_dataset(config)
  assert (len(data.train_counts), data.train_stats.num_images) == (1, 1)
