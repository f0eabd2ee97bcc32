"""Decoding keeps values exactly and names the file where it cannot."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import transforms


def encode(array, image_format="png", **options) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, image_format, **options)
  return buffer.getvalue()


def random_record(seed, dtype=np.uint8):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (40, 56, 3), dtype=np.uint8),
    "label": rng.integers(0, 7, (40, 56)).astype(dtype),
    "file_name": f"{seed}.jpg",
  }


def test_values_are_exact_in_8_and_16_bit():
  for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
    example = random_record(0, dtype=dtype)
    example["label"][0, :2] = 0, top
    record = {**example, "image": encode(example["image"]), "label": encode(example["label"])}
    decoded = transforms.Decode()(record)
    np.testing.assert_array_equal(decoded["image"], example["image"])
    np.testing.assert_array_equal(decoded["label"], example["label"])
    assert decoded["label"].dtype == dtype
    assert decoded["file_name"] == "0.jpg"


def test_turns_the_image_upright_by_its_exif_orientation():
  upright = random_record(1)["image"]
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn by 90 degrees clockwise to display.
  turned = encode(np.rot90(upright).copy(), exif=exif)
  record = {"image": turned, "label": encode(np.zeros((40, 56), np.uint8)), "file_name": "a"}
  np.testing.assert_array_equal(transforms.Decode()(record)["image"], upright)


@pytest.mark.parametrize(("mode", "colour"), [("L", 9), ("CMYK", (0, 0, 0, 246))])
def test_other_colour_modes_become_rgb(mode, colour):
  buffer = io.BytesIO()
  Image.new(mode, (6, 4), colour).save(buffer, "tiff")
  label = encode(np.zeros((4, 6), np.uint8))
  record = {"image": buffer.getvalue(), "label": label, "file_name": "a"}
  np.testing.assert_array_equal(
    transforms.Decode()(record)["image"], np.full((4, 6, 3), 9, np.uint8)
  )


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_16_bits_are_divided_by_257_and_rounded(image_format):
  values = np.array([[0, 128, 129], [20_000, 65_279, 65_535]], np.uint16)
  record = {"image": encode(values, image_format), "file_name": "a"}
  record["label"] = encode(np.zeros((2, 3), np.uint8))
  image = transforms.Decode()(record)["image"]
  assert image[..., 0].tolist() == [[0, 0, 1], [78, 254, 255]]
  np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, axis=-1))


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_undecodable_bytes_name_the_file(key, damage):
  example = random_record(2)
  record = {
    "image": encode(example["image"], "jpeg"),
    "label": encode(example["label"]),
    "file_name": "street/7.jpg",
  }
  data = record[key]
  record[key] = {"truncated": data[: len(data) // 2], "text": b"no image", "empty": b""}[damage]
  with pytest.raises(ValueError, match=f"street/7.jpg: the {key} cannot be decoded"):
    transforms.Decode()(record)


def test_colour_label_names_the_file():
  example = random_record(3)
  record = {"image": encode(example["image"]), "label": encode(example["image"])}
  with pytest.raises(ValueError, match=r"x.png: the label has shape \(40, 56, 3\)"):
    transforms.Decode()({**record, "file_name": "x.png"})


def test_different_sizes_name_the_file_and_both():
  record = {
    "image": encode(np.zeros((4, 6, 3), np.uint8)),
    "label": encode(np.zeros((6, 4), np.uint8)),
    "file_name": "x.png",
  }
  with pytest.raises(ValueError, match=r"x.png: .*\(4, 6\).*\(6, 4\)"):
    transforms.Decode()(record)
