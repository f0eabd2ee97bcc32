import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from input_pipeline import datasets, decode, prepared
from input_pipeline.ade20k_full import layout
from input_pipeline.prepare import published

TABLE = datasets.find_spec("ade20k_full").class_table
TOP = "ADE20K_2021_17_01"
# File name -> (folder, height, width); three have a shorter side above 512 px.
IMAGES = {
  "ADE_train_00000001.jpg": ("training/cultural/apse__indoor", 41, 57),
  "ADE_train_00000002.jpg": ("training/urban/street", 515, 600),
  "ADE_train_00000004.jpg": ("training/urban/street", 701, 530),
  "ADE_frame_00000009.jpg": ("training/video", 512, 513),
  "ADE_val_00000001.jpg": ("validation/urban/street", 30, 31),
  "ADE_val_00000002.jpg": ("validation/urban/street", 513, 513),
}


def ids_of(name):
  """Ids of the table, and some that no class has; blocks, so that resizing is seen."""
  _, height, width = IMAGES[name]
  rng = np.random.default_rng(len(name) + height)
  ids = np.array([0, 6655] * 100 + list(TABLE.metadata.dataset_ids), np.uint16)
  blocks = rng.choice(ids, (height // 3 + 1, width // 3 + 1))
  return np.kron(blocks, np.ones((3, 3), np.uint16))[:height, :width]


def rgb_of(ids):
  """As published: R holds the hundreds in steps of ten, plus what is no matter; B an instance."""
  red = ids // 256 * 10 + np.arange(ids.size).reshape(ids.shape) % 6
  return np.stack([red, ids % 256, np.full(ids.shape, 77)], axis=-1).astype(np.uint8)


def stored_ids(ids):
  to_class = np.full(2**16, 65535, np.uint16)
  to_class[list(TABLE.metadata.dataset_ids)] = np.arange(847)
  return to_class[ids]


def write_index(raw_dir, index, dumps=pickle.dumps):
  (raw_dir / TOP / "index_ade20k.pkl").write_bytes(dumps(index))


def index_of(names):
  folders = [f"{TOP}/images/ADE/{IMAGES[name][0]}" for name in names]
  return {
    "filename": list(names),
    "folder": folders,
    "objectPresence": np.ones((3, len(folders)), np.uint8),
    "description": "x",
  }


def seg_path(raw_dir, name):
  return raw_dir / TOP / "images/ADE" / IMAGES[name][0] / name.replace(".jpg", "_seg.png")


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  for number, (name, (_, height, width)) in enumerate(IMAGES.items()):
    seg = seg_path(tmp_path, name)
    raw_files.jpeg(seg.with_name(name), height, width, seed=number)
    raw_files.png(seg, rgb_of(ids_of(name)))
    raw_files.png(seg.with_name(name.replace(".jpg", "_parts_1.png")), rgb_of(ids_of(name)))
  write_index(tmp_path, index_of(sorted(IMAGES, reverse=True)))
  return tmp_path


def prepare(raw_dir):
  return published.prepare_published("ade20k_full", str(raw_dir), raw_dir / "data")


def test_records_pixel_by_pixel(raw_dir, raw_files):
  directory = prepare(raw_dir)
  assert prepared.read_metadata(directory) == TABLE.metadata
  seen = []
  for split in ("train", "val"):
    records = prepared.open_source(directory, split)
    counts = prepared.read_pixel_counts(directory, split)
    for index in range(len(records)):
      name = records[index]["file_name"]
      seen.append((split, name))
      _, height, width = IMAGES[name]
      jpeg = seg_path(raw_dir, name).with_name(name).read_bytes()
      ids = ids_of(name)
      if min(height, width) > 512:
        scale = 512 / min(height, width)
        size = (512, round(width * scale)) if height < width else (round(height * scale), 512)
        ids = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(raw_files.decode(jpeg), size[::-1], interpolation=cv2.INTER_LINEAR)
        stored = decode.decode_image(records[index]["image"], name)
        # JPEG of quality 95: smooth pictures come back within a few grey levels.
        assert np.abs(stored.astype(int) - image).max() <= 8
        assert np.abs(stored.astype(int) - image).mean() < 1
      else:
        size = height, width
        assert records[index]["image"] == jpeg
      label = raw_files.decode(records[index]["label"])
      assert label.dtype == np.uint16 and label.shape == size
      np.testing.assert_array_equal(label, stored_ids(ids))
      assert (label == 65535).any() and (label < 847).any()
      assert (counts.height[index], counts.width[index]) == size
      class_ids, pixels = counts.row(index)
      expected = np.bincount(label.ravel(), minlength=847)[:847]
      np.testing.assert_array_equal(class_ids, np.nonzero(expected)[0])
      np.testing.assert_array_equal(pixels, expected[expected > 0])
  assert seen == [
    ("train", "ADE_frame_00000009.jpg"),
    ("train", "ADE_train_00000001.jpg"),
    ("train", "ADE_train_00000002.jpg"),
    ("train", "ADE_train_00000004.jpg"),
    ("val", "ADE_val_00000001.jpg"),
    ("val", "ADE_val_00000002.jpg"),
  ]


def test_decoding_by_hand():
  # R 129 // 10 = 12; 12 * 256 + 34 = 3106. R 9 // 10 = 0: the id is G alone.
  rgb = np.array([[[129, 34, 7], [9, 200, 0], [255, 255, 0]]], np.uint8)
  assert layout.decode_ids(rgb).tolist() == [[3106, 200, 25 * 256 + 255]]


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((512, 2000), (512, 2000)),
    ((2000, 300), (2000, 300)),
    ((1024, 1536), (512, 768)),
    ((1537, 1024), (768, 512)),  # 768.5 rounds to the even neighbour
    ((1024, 1539), (512, 770)),  # 769.5 likewise
    ((513, 513), (512, 512)),
  ],
)
def test_stored_size(size, expected):
  assert layout.stored_size(*size) == expected


@pytest.mark.parametrize("role", ["image", "label"])
def test_missing_file_of_the_index_is_an_error(raw_dir, role):
  seg = seg_path(raw_dir, "ADE_train_00000002.jpg")
  path = seg if role == "label" else seg.with_name("ADE_train_00000002.jpg")
  path.unlink()
  with pytest.raises(ValueError, match=rf"{path.name}: the file is missing"):
    prepare(raw_dir)


def test_size_mismatch_is_an_error(raw_dir, raw_files):
  raw_files.png(seg_path(raw_dir, "ADE_val_00000002.jpg"), np.ones((512, 513, 3), np.uint8))
  with pytest.raises(ValueError, match=r"_seg\.png: the label is 513 x 512 px .* is 513 x 513"):
    prepare(raw_dir)


def test_truncated_jpeg_is_resized_as_far_as_it_goes(raw_dir, raw_files):
  name = "ADE_train_00000002.jpg"
  image = seg_path(raw_dir, name).with_name(name)
  image.write_bytes(image.read_bytes()[:-2000])
  directory = prepare(raw_dir)
  expected = raw_files.decode_truncated(image.read_bytes())
  stored = decode.decode_image(prepared.open_source(directory, "train")[2]["image"], name)
  height, width = stored.shape[:2]
  expected = cv2.resize(expected, (width, height), interpolation=cv2.INTER_LINEAR)
  assert np.abs(stored.astype(int) - expected).mean() < 1
  assert name in (directory / "train_notes.txt").read_text()


def test_one_channel_label_is_an_error(raw_dir, raw_files):
  raw_files.png(seg_path(raw_dir, "ADE_val_00000001.jpg"), np.ones((30, 31), np.uint8))
  with pytest.raises(ValueError, match=r"_seg\.png: the label PNG is one channel; .* RGB"):
    prepare(raw_dir)


def test_16_bit_label_is_an_error(raw_dir):
  path = seg_path(raw_dir, "ADE_val_00000001.jpg")
  assert cv2.imwrite(str(path), np.full((30, 31, 3), 2570, np.uint16))
  assert np.array(Image.open(path)).dtype == np.uint8  # PIL reads it as 8 bits without a word
  with pytest.raises(ValueError, match=r"_seg\.png: the label PNG has 16 bits a channel"):
    prepare(raw_dir)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"filename": ["ADE_train_1.jpg"] * 6}, r"lists ADE_train_1\.jpg twice"),
    ({"folder": ["../elsewhere"] * 6}, r"\.\./elsewhere/.* lies outside"),
    ({"folder": ["/etc"] * 6}, "/etc/.* lies outside"),
    ({"filename": ["picture.png"] * 6}, r"'picture\.png' is no name like"),
    ({"filename": [f"ADE_val_{i}.jpg" for i in range(6)]}, "lists no train images"),
    ({"folder": ["x"] * 5}, "5 folders but 6 file names"),
  ],
)
def test_unusable_index(raw_dir, change, message):
  write_index(raw_dir, index_of(IMAGES) | change)
  with pytest.raises(ValueError, match=message):
    prepare(raw_dir)


def test_missing_index(raw_dir):
  (raw_dir / TOP / "index_ade20k.pkl").unlink()
  with pytest.raises(FileNotFoundError, match=r"index_ade20k\.pkl is missing"):
    prepare(raw_dir)


def test_turned_image_is_resized_upright(raw_dir, raw_files):
  name = "ADE_train_00000002.jpg"
  seg = seg_path(raw_dir, name)
  exif = Image.Exif()
  exif[0x0112] = 6  # the file lies on its side: 600 x 515 px of it are 515 x 600 px upright
  lying = raw_files.decode(raw_files.jpeg(seg.with_name(name), 600, 515, exif=exif))
  directory = prepare(raw_dir)
  record = prepared.open_source(directory, "train")[2]
  assert record["file_name"] == name
  stored = decode.decode_image(record["image"], name)
  expected = cv2.resize(np.rot90(lying, -1), (597, 512), interpolation=cv2.INTER_LINEAR)
  assert stored.shape == expected.shape
  assert np.abs(stored.astype(int) - expected).mean() < 1
  assert raw_files.decode(record["label"]).shape == (512, 597)
