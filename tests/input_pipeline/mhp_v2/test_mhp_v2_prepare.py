import numpy as np
import pytest

from input_pipeline import datasets, decode, prepared
from input_pipeline.prepare import published

SIZES = {"train": [(33, 47), (21, 30), (26, 35)], "val": [(25, 19)]}


def merged_label(split, index):
  values = np.array([*range(59), 255], np.uint8)
  return np.random.default_rng([index, len(split)]).choice(values, SIZES[split][index])


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  """A tree with merged labels; the second training label has three channels."""
  for split, sizes in SIZES.items():
    for index, size in enumerate(sizes):
      top = tmp_path / "LV-MHP-v2"
      raw_files.jpeg(top / f"{split}_img" / f"{index + 3}.jpg", *size, seed=index)
      label = merged_label(split, index)
      if (split, index) == ("train", 1):
        label = np.stack([label, 0 * label, 255 - label], axis=-1)
      raw_files.png(top / f"{split}_seg" / f"{index + 3}.png", label)
  return tmp_path


def person_labels(index):
  """Labels of 1, 2 or 3 persons of a training image; they overlap."""
  rng = np.random.default_rng([index, 9])
  height, width = SIZES["train"][index]
  labels = np.zeros((index + 1, height, width), np.uint8)
  for person in range(index + 1):
    region = slice(4 * person, 4 * person + 10)
    labels[person, 5:18, region] = rng.integers(1, 59, labels[person, 5:18, region].shape)
  return labels


def write_persons(raw_dir, raw_files):
  """Replaces the merged training labels by those of the persons, the second ones of three channels.

  `<image>_<n>_<i>.png`, two digits each, as published.
  """
  top = raw_dir / "LV-MHP-v2"
  for path in (top / "train_seg").iterdir():
    path.unlink()
  (top / "train_seg").rmdir()
  for index in range(3):
    labels = person_labels(index)
    for person, label in enumerate(labels, start=1):
      name = f"{index + 3}_{len(labels):02d}_{person:02d}.png"
      values = np.stack([label] * 3, axis=-1) if person == 2 else label
      raw_files.png(top / "train_parsing" / name, values)
  return top / "train_parsing"


def prepare(raw_dir):
  return published.prepare_published("mhp_v2", str(raw_dir), raw_dir / "data")


def test_merged_labels(raw_dir, raw_files):
  directory = prepare(raw_dir)
  assert prepared.read_metadata(directory) == datasets.find_spec("mhp_v2").class_table.metadata
  for split, sizes in SIZES.items():
    records = prepared.open_source(directory, split)
    assert [records[i]["file_name"] for i in range(len(records))] == [
      f"{index + 3}.jpg" for index in range(len(sizes))
    ]
    for index in range(len(sizes)):
      folder = raw_dir / "LV-MHP-v2"
      assert records[index]["image"] == (folder / f"{split}_img" / f"{index + 3}.jpg").read_bytes()
      np.testing.assert_array_equal(
        raw_files.decode(records[index]["label"]), merged_label(split, index)
      )


def test_labels_of_persons_are_merged(raw_dir, raw_files):
  write_persons(raw_dir, raw_files)
  records = prepared.open_source(prepare(raw_dir), "train")
  assert len(records) == 3
  for index in range(3):
    expected = np.zeros(SIZES["train"][index], np.uint8)
    for label in person_labels(index):  # the last person lies on top
      expected[label > 0] = label[label > 0]
    np.testing.assert_array_equal(raw_files.decode(records[index]["label"]), expected)
  assert prepared.open_source(raw_dir / "data" / "mhp_v2" / "1.0.0", "val")[0]


def test_more_than_nine_persons_keep_their_order(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  (parsing / "3_01_01.png").unlink()
  for person in range(1, 12):
    raw_files.png(parsing / f"3_11_{person}.png", np.full(SIZES["train"][0], person, np.uint8))
  record = prepared.open_source(prepare(raw_dir), "train")[0]
  assert np.all(raw_files.decode(record["label"]) == 11)


@pytest.mark.parametrize(
  ("file_name", "value", "size"),
  [("4_02_02.png", 59, (21, 30)), ("5_03_03.png", 200, (26, 35))],
)
def test_unknown_value_of_a_person_names_the_file(raw_dir, raw_files, file_name, value, size):
  parsing = write_persons(raw_dir, raw_files)
  raw_files.png(parsing / file_name, np.full(size, value, np.uint8))
  with pytest.raises(ValueError, match=rf"{file_name}: label value {value} "):
    prepare(raw_dir)


def test_size_of_a_person_names_the_file(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  raw_files.png(parsing / "4_02_02.png", np.ones((21, 29), np.uint8))
  with pytest.raises(ValueError, match=r"4_02_02\.png: the label is 29 x 21 px"):
    prepare(raw_dir)


def test_missing_person_is_an_error(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  (parsing / "5_03_02.png").unlink()
  with pytest.raises(
    ValueError, match=r"the image has 3 persons by this name, but 2 labels: 5_03_"
  ):
    prepare(raw_dir)


def test_image_without_persons_is_an_error(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  (parsing / "3_01_01.png").unlink()
  with pytest.raises(ValueError, match=r"1 images without a label PNG.*\n.*train_img/3\.jpg"):
    prepare(raw_dir)


def test_persons_without_image_are_an_error(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  raw_files.png(parsing / "9_01_01.png", np.ones((4, 4), np.uint8))
  with pytest.raises(ValueError, match=r"1 labels without an image.*\n.*9_01_01\.png"):
    prepare(raw_dir)


def test_two_numbers_of_persons_are_an_error(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  raw_files.png(parsing / "5_04_04.png", np.ones((26, 35), np.uint8))
  with pytest.raises(ValueError, match=r"5_04_04\.png: other files .* 3 persons"):
    prepare(raw_dir)


def test_other_names_are_an_error(raw_dir, raw_files):
  parsing = write_persons(raw_dir, raw_files)
  raw_files.png(parsing / "3.png", np.ones((4, 4), np.uint8))
  with pytest.raises(ValueError, match=r"3\.png: the name is not <image>_<number of persons>_"):
    prepare(raw_dir)


def test_no_labels_at_all_says_what_the_tree_is(raw_dir):
  (raw_dir / "LV-MHP-v2" / "val_seg").rename(raw_dir / "elsewhere")
  with pytest.raises(FileNotFoundError, match=r"val_parsing is missing: .* or train_parsing/"):
    prepare(raw_dir)


@pytest.mark.parametrize("channels", [1, 3])
def test_unknown_value_is_an_error(raw_dir, raw_files, channels):
  values = merged_label("val", 0)
  values[0, 0] = 59
  values = np.stack([values] * 3, axis=-1) if channels == 3 else values
  raw_files.png(raw_dir / "LV-MHP-v2" / "val_seg" / "3.png", values)
  with pytest.raises(ValueError, match=r"3\.png: label value 59 \(1 pixels"):
    prepare(raw_dir)


def test_truncated_jpeg_is_read_as_far_as_it_goes(raw_dir, raw_files):
  image = raw_dir / "LV-MHP-v2" / "train_img" / "4.jpg"
  image.write_bytes(image.read_bytes()[:-20])
  directory = prepare(raw_dir)
  stored = prepared.open_source(directory, "train")[1]["image"]
  np.testing.assert_array_equal(
    decode.decode_image(stored, "x"), raw_files.decode_truncated(image.read_bytes())
  )
  assert (directory / "train_notes.txt").read_text().count("4.jpg: the JPEG ends too early") == 1
