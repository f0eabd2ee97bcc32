"""Folders of images of all kinds, in folders of folders: what is stored and decoded of them."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import pipeline, prediction_files, prepared, transforms, validation_batches
from input_pipeline.folder import prepare
from tests import image_bytes

SIZE = (24, 32)
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (*SIZE, 4), np.uint16)
SHALLOW = Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), np.uint8))


def write_image(path):
  """Writes an image of the kind that its name says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  deep = {"grey": DEEP[..., 0], "rgb": DEEP[..., :3], "rgba": DEEP, "12": DEEP[..., 0] // 16}
  values = deep.get(path.stem.removeprefix("deep "))
  if values is None:
    SHALLOW.save(path)
  else:
    is_png = path.suffix == ".png"
    path.write_bytes(image_bytes.png(values, 16) if is_png else image_bytes.tiff(values))


IMAGES = {
  "train": (
    *("a.jpg", "a.b.png", "berlin/a.BMP", "berlin/day/deep grey.tif", "berlin/deep rgb.png"),
    *("berlin/deep 12.png", "deep grey.png", "deep rgb.tiff", "deep rgba.png", "z.webp"),
  ),
  "val": ("berlin/a.tif", "deep 12.tif", "deep rgba.tif"),
}


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
  root = tmp_path_factory.mktemp("data") / "photos"
  for split, names in IMAGES.items():
    for name in names:
      write_image(root / "images" / split / name)
      label = (root / "annotations" / split / name).with_suffix(".png")
      label.parent.mkdir(parents=True, exist_ok=True)
      label.write_bytes(image_bytes.png(RNG.integers(0, 2, SIZE), 8))
  (root / "classes.txt").write_text("ground\nbush\n")
  return root


@pytest.fixture(name="directory", scope="module")
def _directory(root):
  return prepare.prepare_folder(root.parent / "data", root, 255)


@pytest.mark.parametrize("split", prepared.SPLITS)
def test_every_image_is_stored_as_a_prediction_sees_it(root, directory, split):
  source = prepared.open_source(directory, split)
  records = {record["file_name"]: record for record in (source[i] for i in range(len(source)))}
  assert sorted(records) == sorted(IMAGES[split])
  for name, record in records.items():
    path = epath.Path(root / "images" / split / name)
    decoded = transforms.Decode()(record)["image"]
    np.testing.assert_array_equal(decoded, prediction_files.read_image(path))
    if name in ("a.jpg", "a.b.png"):
      assert record["image"] == path.read_bytes()
    else:
      assert record["image"].startswith(b"\x89PNG") and record["image"][24] == 8
    if "rgb" in name:
      np.testing.assert_array_equal(decoded, np.rint(DEEP[..., :3] / 257))


def test_trainings_and_evaluations_read_them(root, directory):
  source = prepared.open_source(directory, "train")
  chain = transforms.DecodeScaledCrop(
    transforms.ResizeShortestEdge(24, 48, 1.0, 1.0), transforms.RandomCrop(24, 255, 1.0), exact=True
  )
  for index in range(len(source)):
    example = chain(pipeline.read_record(source, index), np.random.default_rng(0))
    path = epath.Path(root / "images" / "train" / example["file_name"])
    image = prediction_files.read_image(path)  # [24, 32, 3], of which the crop is 24 columns
    windows = [image[:, start : start + 24] for start in range(9)]
    assert any(np.array_equal(example["image"], window) for window in windows)
  counts = prepared.read_pixel_counts(directory, "val")
  batches = validation_batches.ValidationBatches(
    prepared.open_source(directory, "val"),
    (counts.height, counts.width),
    batch_size=1,
    min_size=0,
    max_size=99,
  )
  seen = {batch.rows[0].content.file_name: batch.image[0] for batch in batches}
  assert sorted(seen) == sorted(IMAGES["val"])
  for name, image in seen.items():
    path = epath.Path(root / "images" / "val" / name)
    np.testing.assert_array_equal(image, prediction_files.read_image(path))


def test_images_that_use_12_of_16_bits_are_noted(directory, root):
  notes = (directory / "train_notes.txt").read_text().splitlines()
  [line] = notes
  name = root / "images" / "train" / "berlin" / "deep 12.png"
  assert line.startswith(f"{name}: it has 16 bits a channel, but its largest value is 409")
  assert line.endswith("if 12 bits are meant, multiply the values by 16 and save it again")
  assert "deep 12.tif" in (directory / "val_notes.txt").read_text()
