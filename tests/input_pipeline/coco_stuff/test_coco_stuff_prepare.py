import numpy as np
import pytest

from input_pipeline import datasets, prepared
from input_pipeline.prepare import published

TABLE = datasets.find_spec("coco_stuff").class_table


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  """A tree as published: labels are the ids minus one, 255 is no class."""
  rng = np.random.default_rng(0)
  values = np.array([*(i - 1 for i in TABLE.metadata.dataset_ids), 255], np.uint8)
  for folder, sizes in {"train2017": [(33, 47), (21, 30)], "val2017": [(25, 19)]}.items():
    for index, size in enumerate(sizes):
      raw_files.jpeg(tmp_path / "images" / folder / f"{index:012d}.jpg", *size, seed=index)
      label = tmp_path / "stuffthingmaps_trainval2017" / folder / f"{index:012d}.png"
      raw_files.png(label, rng.choice(values, size))
  return tmp_path


def prepare(raw_dir):
  return published.prepare_published("coco_stuff", str(raw_dir), raw_dir / "data")


def label_path(raw_dir, folder, index):
  return raw_dir / "stuffthingmaps_trainval2017" / folder / f"{index:012d}.png"


def test_labels_are_class_indices(raw_dir, raw_files):
  directory = prepare(raw_dir)
  assert prepared.read_metadata(directory) == TABLE.metadata
  train_id = {dataset_id - 1: i for i, dataset_id in enumerate(TABLE.metadata.dataset_ids)}
  train_id[255] = 255
  for split, folder, count in (("train", "train2017", 2), ("val", "val2017", 1)):
    records = prepared.open_source(directory, split)
    assert len(records) == count
    for index in range(count):
      image = raw_dir / "images" / folder / f"{index:012d}.jpg"
      assert records[index]["image"] == image.read_bytes()
      raw = raw_files.decode(label_path(raw_dir, folder, index).read_bytes())
      stored = raw_files.decode(records[index]["label"])
      assert stored.dtype == np.uint8
      np.testing.assert_array_equal(stored, np.vectorize(train_id.get)(raw))


# 11 is the id 12 minus one, a street sign: COCO has the id, COCO-Stuff no such class.
@pytest.mark.parametrize("value", [11, 182, 254])
def test_id_without_a_class_is_an_error(raw_dir, raw_files, value):
  label = label_path(raw_dir, "val2017", 0)
  raw_files.png(label, np.full((25, 19), value, np.uint8))
  with pytest.raises(ValueError, match=rf"{label.name}: label value {value} \(475 pixels"):
    prepare(raw_dir)


def test_16_bit_label_is_an_error(raw_dir, raw_files):
  raw_files.png(label_path(raw_dir, "train2017", 1), np.zeros((21, 30), np.uint16))
  with pytest.raises(ValueError, match=r"000000000001\.png: the label PNG has 16 bits"):
    prepare(raw_dir)


def test_missing_label_is_an_error(raw_dir):
  label_path(raw_dir, "train2017", 1).unlink()
  with pytest.raises(ValueError, match=r"1 images without a label PNG.*\n.*000000000001\.jpg"):
    prepare(raw_dir)


def test_wrong_raw_dir_is_an_error(raw_dir):
  (raw_dir / "stuffthingmaps_trainval2017").rename(raw_dir / "stuffthingmaps")
  with pytest.raises(FileNotFoundError, match="holds images and stuffthingmaps_trainval2017"):
    prepare(raw_dir)
