import numpy as np
import pytest
from PIL import Image

from input_pipeline import datasets, decode, prepared
from input_pipeline.prepare import ensure_prepared, published

SIZES = {"training": [(31, 47), (24, 33), (50, 21)], "validation": [(23, 29), (17, 40)]}
SPLITS = {"train": "training", "val": "validation"}


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  """A tree as published: labels 0 (no class) to 150, odd sizes."""
  top = tmp_path / "raw" / "ADEChallengeData2016"
  rng = np.random.default_rng(0)
  for folder, sizes in SIZES.items():
    for index, (height, width) in enumerate(sizes):
      stem = f"ADE_{folder[:5]}_{index:08d}"
      raw_files.jpeg(top / "images" / folder / f"{stem}.jpg", height, width, seed=index)
      label = rng.integers(0, 151, (height, width), np.uint8)
      raw_files.png(top / "annotations" / folder / f"{stem}.png", label)
  (top / "objectInfo150.txt").write_text("Idx\n")
  return tmp_path / "raw"


def paths(raw_dir, folder, index=0):
  top = raw_dir / "ADEChallengeData2016"
  stem = f"ADE_{folder[:5]}_{index:08d}"
  return top / "images" / folder / f"{stem}.jpg", top / "annotations" / folder / f"{stem}.png"


def prepare(raw_dir, tmp_path):
  return published.prepare_published("ade20k", str(raw_dir), tmp_path / "data")


def test_images_are_untouched_and_labels_shifted(raw_dir, tmp_path, raw_files, caplog):
  directory = prepare(raw_dir, tmp_path)
  assert directory == tmp_path / "data" / "ade20k" / "1.0.0"
  assert prepared.read_metadata(directory) == datasets.find_spec("ade20k").class_table.metadata
  for split, folder in SPLITS.items():
    records = prepared.open_source(directory, split)
    counts = prepared.read_pixel_counts(directory, split)
    assert len(records) == len(counts) == len(SIZES[folder])
    for index, size in enumerate(SIZES[folder]):
      image, label = paths(raw_dir, folder, index)
      assert records[index]["file_name"] == image.name
      assert records[index]["image"] == image.read_bytes()
      stored = raw_files.decode(records[index]["label"])
      raw = raw_files.decode(label.read_bytes()).astype(int)
      assert stored.dtype == np.uint8 and stored.shape == size
      np.testing.assert_array_equal(stored, np.where(raw == 0, 255, raw - 1))
      class_ids, pixels = counts.row(index)
      expected = np.bincount(stored.ravel(), minlength=256)[:150]
      np.testing.assert_array_equal(class_ids, np.nonzero(expected)[0])
      np.testing.assert_array_equal(pixels, expected[expected > 0])
      assert (counts.height[index], counts.width[index]) == size
  assert "ade20k train has 3 images, the published one 20210" in caplog.text
  assert ensure_prepared("ade20k", tmp_path / "data") == directory
  assert not list(directory.glob("*_notes.txt"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_jpeg_is_read_as_far_as_it_goes(
  raw_dir, tmp_path, raw_files, caplog, progressive, kept
):
  image, label = paths(raw_dir, "training", 1)
  data = raw_files.jpeg(image, 240, 320, progressive=progressive)
  raw_files.png(label, np.ones((240, 320), np.uint8))
  image.write_bytes(data[: int(kept * len(data))])
  directory = prepare(raw_dir, tmp_path)
  stored = prepared.open_source(directory, "train")[1]["image"]
  np.testing.assert_array_equal(
    decode.decode_image(stored, "x"), raw_files.decode_truncated(image.read_bytes())
  )
  assert stored.startswith(image.read_bytes())
  words = f"{image}: the JPEG ends too early"
  assert (directory / "train_notes.txt").read_text().startswith(words)
  assert words in caplog.text
  assert not (directory / "val_notes.txt").exists()


def test_jpeg_without_pixels_is_an_error(raw_dir, tmp_path):
  image, _ = paths(raw_dir, "training")
  image.write_bytes(image.read_bytes()[:200])
  with pytest.raises(
    ValueError, match=rf"1 of 3 train examples.*\n.*{image.name}: the image canno"
  ):
    prepare(raw_dir, tmp_path)
  assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_unknown_label_value_is_an_error(raw_dir, tmp_path, raw_files):
  _, label = paths(raw_dir, "validation")
  values = raw_files.decode(label.read_bytes())
  values[0, :3] = 151, 151, 255
  raw_files.png(label, values)
  message = (
    rf"{label.name}: label value 151 \(2 pixels; 2 such values in all\) is not one that ade20k has"
    r" \(150 classes in 1\.\.150; without a class: 0\)"
  )
  with pytest.raises(ValueError, match=message):
    prepare(raw_dir, tmp_path)


def test_missing_label_is_an_error(raw_dir, tmp_path):
  _, label = paths(raw_dir, "training", 2)
  label.unlink()
  with pytest.raises(
    ValueError, match=r"1 images without a label PNG.*\n.*ADE_train_00000002\.jpg"
  ):
    prepare(raw_dir, tmp_path)


def test_label_without_image_is_an_error(raw_dir, tmp_path):
  image, _ = paths(raw_dir, "training", 2)
  image.unlink()
  with pytest.raises(ValueError, match=r"1 labels without an image.*\n.*ADE_train_00000002\.png"):
    prepare(raw_dir, tmp_path)


def test_size_mismatch_is_an_error(raw_dir, tmp_path, raw_files):
  _, label = paths(raw_dir, "training")
  raw_files.png(label, np.ones((47, 31), np.uint8))
  with pytest.raises(ValueError, match=rf"{label.name}: the label is 31 x 47 px .* is 47 x 31 px"):
    prepare(raw_dir, tmp_path)


def test_16_bit_label_is_an_error(raw_dir, tmp_path, raw_files):
  _, label = paths(raw_dir, "training")
  raw_files.png(label, np.full(SIZES["training"][0], 300, np.uint16))
  with pytest.raises(ValueError, match=rf"{label.name}: .* 16 bits a channel, the published ones"):
    prepare(raw_dir, tmp_path)


def test_colour_label_is_an_error(raw_dir, tmp_path):
  _, label = paths(raw_dir, "training")
  Image.open(label).convert("RGB").save(label)
  with pytest.raises(ValueError, match=rf"{label.name}: the label PNG is RGB"):
    prepare(raw_dir, tmp_path)


def test_several_problems_are_told_at_once(raw_dir, tmp_path, raw_files):
  for index in range(2):
    raw_files.png(paths(raw_dir, "training", index)[1], np.ones((3, 4), np.uint8))
  with pytest.raises(ValueError, match="2 of 3 train examples are not usable"):
    prepare(raw_dir, tmp_path)


def test_wrong_raw_dir_says_what_it_must_hold(raw_dir, tmp_path):
  with pytest.raises(FileNotFoundError, match="the directory that holds ADEChallengeData2016"):
    prepare(raw_dir / "ADEChallengeData2016", tmp_path)


def test_missing_folder_says_what_the_tree_is(raw_dir, tmp_path):
  (raw_dir / "ADEChallengeData2016" / "annotations").rename(raw_dir / "elsewhere")
  with pytest.raises(FileNotFoundError, match="annotations/training is missing: ADEChallengeData"):
    prepare(raw_dir, tmp_path)
