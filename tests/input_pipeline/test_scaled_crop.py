"""DecodeScaledCrop against the three transforms that it stands for, and the bounds it states."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from input_pipeline import transforms
from input_pipeline.decode import EncodedImage
from input_pipeline.resize import resize_label, resize_label_window, resize_window

IGNORE = 255


def encode(array, image_format="png", **options) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, image_format, **options)
  return buffer.getvalue()


def photograph(seed, height, width):
  """An image with the spectrum of photographs: noise at all scales, amplitude as the wavelength."""
  rng = np.random.default_rng(seed)
  image = np.full((height, width, 3), 128, np.float32)
  for cells in (4, 8, 16, 32, 64, 128):
    noise = rng.normal(size=(cells * height // width + 1, cells, 3)).astype(np.float32)
    layer = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image += layer * 90 / cells**0.6
  return np.clip(image, 0, 255).astype(np.uint8)


def checkerboard(height, width, cell):
  rows, columns = np.ogrid[:height, :width]
  return ((rows // cell + columns // cell) % 2).astype(np.uint8)


def record(image, label, image_format="jpeg", **options):
  data = encode(image, image_format, **options)
  return {"image": data, "label": encode(label), "file_name": "a.jpg"}


def random_record(seed, image_format="jpeg", dtype=np.uint8):
  rng = np.random.default_rng(seed)
  height, width = (int(side) for side in rng.integers(20, 120, 2))
  image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
  label = rng.integers(0, 6, (height, width)).astype(dtype)
  return record(image, label, image_format)


RESIZE = transforms.ResizeShortestEdge(48, 150, 0.5, 2.0)


def in_turn(example, rng, crop):
  for transform in (transforms.Decode(), RESIZE, crop):
    example = transform(example, rng)
  return example


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_is_exactly_the_three_in_turn(share, dtype):
  crop = transforms.RandomCrop(40, IGNORE, share)
  for seed in range(60):
    example = random_record(seed, "png" if seed % 5 == 0 else "jpeg", dtype)
    rng, other = (np.random.default_rng(seed) for _ in range(2))
    got = transforms.DecodeScaledCrop(RESIZE, crop, exact=True)(example, rng)
    expected = in_turn(example, other, crop)
    for key in ("image", "label"):
      np.testing.assert_array_equal(got[key], expected[key])
      assert got[key].dtype == expected[key].dtype
    assert rng.integers(2**40) == other.integers(2**40)  # As many numbers were drawn.
    assert got["file_name"] == "a.jpg"


def test_fast_has_the_same_geometry_and_label_and_values_within_1_where_it_enlarges():
  crop = transforms.RandomCrop(40, IGNORE, 1.0)
  enlarged = 0
  for seed in range(100):
    example = random_record(seed)  # Noise: the hardest case.
    got = transforms.DecodeScaledCrop(RESIZE, crop, exact=False)(
      example, np.random.default_rng(seed)
    )
    expected = in_turn(example, np.random.default_rng(seed), crop)
    np.testing.assert_array_equal(got["label"], expected["label"])
    difference = np.abs(got["image"].astype(int) - expected["image"])
    full, size = EncodedImage(example["image"], "").size, np.random.default_rng(seed)
    height, width = RESIZE.draw(*full, size)
    if 1.5 * height > full[0] / 2 or 1.5 * width > full[1] / 2:  # Else it is decoded smaller.
      assert difference.max() <= 1
      enlarged += difference.max() == 1
  assert enlarged > 20


@pytest.mark.parametrize("factor", [1.01, 1.37, 2.0, 2.9])
def test_enlarging_is_within_1_of_pillow(factor):
  for image in (
    photograph(0, 120, 160),
    checkerboard(120, 160, 1)[..., None] * np.uint8([255] * 3),
  ):
    height, width = round(120 * factor), round(160 * factor)
    whole = (slice(0, height), slice(0, width))
    pillow = Image.fromarray(image)
    exact = resize_window(pillow, height, width, whole, True).astype(int)
    fast = resize_window(pillow, height, width, whole, False)
    assert np.abs(exact - fast).max() <= 1
    assert np.mean(exact != fast) < 1 / 3


@pytest.mark.parametrize("side", [100, 150, 200])
def test_smaller_decoding_changes_less_than_half_a_value_on_average(side):
  # 640 x 800 is at least three times the wanted size: decoded at 1/2 (1/4 for 100).
  image = photograph(1, 640, 800)
  example = record(image, np.zeros((640, 800), np.uint8), quality=95)
  resize = transforms.ResizeShortestEdge(side, 2000, 1.0, 1.0)
  results = [
    transforms.DecodeScaledCrop(resize, transforms.RandomCrop(400, IGNORE, 1.0), exact)(
      example, np.random.default_rng(0)
    )["image"].astype(int)
    for exact in (True, False)
  ]
  difference = np.abs(results[0] - results[1])
  assert difference.max() > 0  # It is decoded smaller indeed.
  assert difference.mean() < 0.5
  assert difference.max() <= 8


def test_decoded_size_is_the_smallest_that_is_large_enough():
  data = encode(photograph(2, 160, 240), "jpeg")
  for least, expected in (
    (None, (240, 160)),
    ((160, 240), (240, 160)),
    ((81, 100), (240, 160)),
    ((80, 120), (120, 80)),
    ((41, 10), (120, 80)),
    ((40, 60), (60, 40)),
    ((3, 3), (30, 20)),
  ):
    assert EncodedImage(data, "").decode(least).size == expected
  png = encode(photograph(2, 160, 240))
  assert EncodedImage(png, "").decode((3, 3)).size == (240, 160)


def test_smaller_decoding_turns_upright_too():
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn by 90 degrees clockwise to display.
  upright = photograph(3, 240, 160)
  data = encode(np.rot90(upright).copy(), "jpeg", exif=exif, quality=95)
  encoded = EncodedImage(data, "")
  assert encoded.size == (240, 160)
  image = np.asarray(encoded.decode((100, 61)))
  assert image.shape == (120, 80, 3)
  expected = cv2.resize(upright, (80, 120), interpolation=cv2.INTER_AREA)
  assert np.abs(image.astype(int) - expected).mean() < 3  # JPEG's losses; turned otherwise: 40.


@pytest.mark.parametrize("exact", [True, False])
def test_checkerboard_image_and_label_never_differ_by_a_pixel(exact):
  """The whole chain but the colours: a pixel is light where its label is 1."""
  label = checkerboard(96, 128, 16)
  example = record(label[..., None] * np.uint8([255] * 3), label, quality=95)
  chain = [
    transforms.DecodeScaledCrop(
      transforms.ResizeShortestEdge(96, 400, 0.5, 2.0),
      transforms.RandomCrop(96, IGNORE, 1.0),
      exact,
    ),
    transforms.RandomFlip(),
    transforms.PadTo(96, IGNORE),
  ]
  for seed in range(60):
    result, rng = example, np.random.default_rng(seed)
    for transform in chain:
      result = transform(result, rng)
    padded = result["label"] == IGNORE
    light = result["image"][..., 1] > 127
    assert (result["image"][padded] == 128).all()
    wrong = (light != (result["label"] == 1)) & ~padded
    # The bilinear edge passes its middle within the pixel where the label changes: a difference is
    # never two pixels wide. Cells have at least 8 pixels a side, and two edges each.
    runs = cv2.erode(wrong.astype(np.uint8), np.ones((2, 2), np.uint8), borderValue=0)
    assert not runs.any()
    assert wrong.mean() < 2 / 8


def test_label_window_is_the_window_of_the_resized_label():
  rng = np.random.default_rng(0)
  for _ in range(200):
    label = rng.integers(0, 9, rng.integers(1, 30, 2)).astype(np.uint8)
    height, width = (int(side) for side in rng.integers(1, 60, 2))
    top, left = int(rng.integers(height)), int(rng.integers(width))
    bottom, right = int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1
    window = (slice(top, bottom), slice(left, right))
    expected = resize_label(label, height, width)[window]
    np.testing.assert_array_equal(resize_label_window(label, height, width, window), expected)


@pytest.mark.parametrize("exact", [True, False])
def test_errors_name_the_file(exact):
  transform = transforms.DecodeScaledCrop(RESIZE, transforms.RandomCrop(40, IGNORE, 1.0), exact)
  rng, good = np.random.default_rng(0), random_record(0)
  for damage in (good["image"][: len(good["image"]) // 2], b"no image", b""):
    with pytest.raises(ValueError, match="a.jpg: the image cannot be decoded"):
      transform({**good, "image": damage}, rng)
  with pytest.raises(ValueError, match="a.jpg: the label cannot be decoded"):
    transform({**good, "label": b"no label"}, rng)
  with pytest.raises(
    ValueError, match=r"a.jpg: the image has size \(\d+, \d+\) and its label \(4, 6\)"
  ):
    transform({**good, "label": encode(np.zeros((4, 6), np.uint8))}, rng)
