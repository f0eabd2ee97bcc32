"""Images of more than 8 bits a channel: the same pixels wherever they are read."""

import io

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import decode, deep_images, prediction_files, transforms
from input_pipeline.raw import record
from tests import image_bytes

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 2**16, (24, 32, 4), np.uint16)
VALUES[0, :8, 0] = 0, 128, 129, 255, 256, 385, 386, 65535  # where roundings part
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned by 90 degrees clockwise


def expected(values):
  """RGB, uint8 [H, W, 3]: v / 257, rounded; alpha is dropped."""
  values = np.atleast_3d(values)
  rgb = values[..., :3] if values.shape[2] > 2 else np.repeat(values[..., :1], 3, axis=-1)
  return np.rint(rgb / 257).astype(np.uint8)


def written(values, suffix):
  """Bytes of a file, by OpenCV, whose PNGs are libpng's."""
  if values.ndim == 3:
    values = values[..., [2, 1, 0, 3][: values.shape[2]]]  # RGB(A) to BGR(A)
  _, data = cv2.imencode(suffix, np.ascontiguousarray(values))
  return data.tobytes()


GREY, COLOUR = VALUES[..., 0], VALUES[..., :3]
CASES = {
  "grey.png": (written(GREY, ".png"), GREY),
  "rgb.png": (written(COLOUR, ".png"), COLOUR),
  "rgba.png": (written(VALUES, ".png"), VALUES),
  "grey alpha.png": (image_bytes.png(VALUES[..., :2], 16), VALUES[..., :2]),
  "grey.tif": (written(GREY, ".tif"), GREY),
  "rgb.tif": (written(COLOUR, ".tif"), COLOUR),
  "rgba.tif": (written(VALUES, ".tif"), VALUES),
  "other byte order.tif": (image_bytes.tiff(GREY, order=">"), GREY),
  "rgb, other byte order.tif": (image_bytes.tiff(COLOUR, order=">"), COLOUR),
  "white is zero.tif": (image_bytes.tiff(GREY, photometric=0), ~GREY),
  "grey.pgm": (written(GREY, ".pgm"), GREY),
}


def training_image(path):
  """What a training sees of a file: prepared into a record, and decoded as the recipe does."""
  stored = record.read_image(epath.Path(path)).data
  label = record.encode_label(np.zeros(record.read_image(epath.Path(path)).size, np.uint8))
  example = {"image": stored, "label": label, "file_name": "x"}
  image = transforms.Decode()(example)["image"]
  np.testing.assert_array_equal(np.asarray(decode.EncodedImage(stored, "x").decode()), image)
  return image


def test_every_value_is_divided_by_257_and_rounded():
  values = np.arange(2**16, dtype=np.uint16)
  scaled, note = deep_images.to_8_bits(values)
  np.testing.assert_array_equal(scaled, np.rint(values / 257))
  assert scaled.dtype == np.uint8 and note == ""
  np.testing.assert_array_equal(scaled[::257], np.arange(256))  # what has 8 bits comes back
  assert (scaled != values >> 8).mean() == pytest.approx(0.25, abs=0.002)  # what Pillow makes of it


@pytest.mark.parametrize("name", CASES)
def test_all_paths_give_the_same_pixels(tmp_path, name):
  data, values = CASES[name]
  path = epath.Path(tmp_path / name)
  path.write_bytes(data)
  assert prediction_files.image_size(path) == (24, 32)
  np.testing.assert_array_equal(prediction_files.read_image(path), expected(values))
  with Image.open(path) as image:
    shallow, note = deep_images.reduced(image)
    np.testing.assert_array_equal(np.asarray(decode.upright_rgb(shallow)), expected(values))
    assert note == ""
  np.testing.assert_array_equal(
    np.asarray(decode.EncodedImage(data, name).decode((1, 1))), expected(values)
  )
  if not name.endswith(".pgm"):  # which trainings do not take
    np.testing.assert_array_equal(training_image(path), expected(values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_of_any_depth_are_turned_upright(tmp_path, channels, suffix, dtype):
  values = VALUES[..., :channels].squeeze().astype(dtype)
  if suffix == "tif":
    data = image_bytes.tiff(values, orientation=6)
  else:
    exif = image_bytes.chunk(b"eXIf", TURNED.tobytes().removeprefix(b"Exif\0\0"))
    data = image_bytes.png(values, 8 * values.dtype.itemsize, chunks=exif)
  path = epath.Path(tmp_path / f"turned.{suffix}")
  path.write_bytes(data)
  upright = np.rot90(expected(values * np.uint16(1 if dtype == np.uint16 else 257)), -1)
  assert prediction_files.image_size(path) == record.read_image(path).size == (32, 24)
  np.testing.assert_array_equal(prediction_files.read_image(path), upright)
  np.testing.assert_array_equal(training_image(path), upright)
  encoded = decode.EncodedImage(data, "x")
  assert encoded.size == (32, 24)
  np.testing.assert_array_equal(np.asarray(encoded.decode()), upright)


FLOATS = RNG.random((24, 32, 3), np.float32)
REFUSED = {
  "float.tif": (image_bytes.tiff(FLOATS[..., 0], sample_format=3), "floating-point numbers; save"),
  "float rgb.tif": (image_bytes.tiff(FLOATS, sample_format=3), "floating-point numbers; save it"),
  "double.tif": (image_bytes.tiff(FLOATS[..., 0].astype(np.float64), sample_format=3), "floating"),
  "half.tif": (image_bytes.tiff(FLOATS.astype(np.float16), sample_format=3), "floating-point"),
  "float.pfm": (written(FLOATS[..., 0], ".pfm"), "(floating-point numbers; save|PPM image; save)"),
  "int32.tif": (image_bytes.tiff(GREY.astype(np.int32), sample_format=2), "it has 32 bits a"),
  "uint32.tif": (image_bytes.tiff(GREY.astype(np.uint32)), "it has 32 bits a channel; save it"),
  "int16.tif": (image_bytes.tiff(GREY.astype(np.int16), sample_format=2), "not plain unsigned"),
  "apart.tif": (image_bytes.tiff(COLOUR, layout=image_bytes.APART), "PlanarConfiguration 2.*not r"),
  "cmyk.tif": (image_bytes.tiff(VALUES, photometric=5), "4 channels .*Interpretation 5"),
  "grey alpha.tif": (image_bytes.tiff(VALUES[..., :2]), "16 bits with 2 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_without_a_known_scale_are_refused_on_all_paths(tmp_path, name):
  data, words = REFUSED[name]
  path = epath.Path(tmp_path / name)
  path.write_bytes(data)
  with pytest.raises(ValueError, match=rf"{name}: the image cannot be read .*{words}"):
    record.read_image(path)
  with pytest.raises(prediction_files.ImageError, match=rf"{name}: .*{words}"):
    prediction_files.image_size(path)
    prediction_files.read_image(path)
  with pytest.raises(ValueError, match=rf"x: the image cannot be decoded .*{words}"):
    decode.EncodedImage(data, "x")


def test_32_bit_integers_of_pillow_are_refused():
  with pytest.raises(ValueError, match="its values are 32-bit integers; save it"):
    deep_images.reduced(Image.fromarray(GREY.astype(np.int32)))


@pytest.mark.parametrize("name", ["rgb.png", "rgb.tif", "grey.png"])
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_damaged_files_are_errors(tmp_path, name, kept):
  """OpenCV alone would give what there is, and black below."""
  data, _ = CASES[name]
  path = epath.Path(tmp_path / name)
  path.write_bytes(data[: int(kept * len(data))])
  with pytest.raises(ValueError, match=rf"{name}: the image cannot be read"):
    record.read_image(path)
  with pytest.raises(prediction_files.ImageError, match=name):
    prediction_files.image_size(path)
    prediction_files.read_image(path)


def test_colours_that_pillow_has_decoded_keep_its_upper_byte():
  with Image.open(io.BytesIO(CASES["rgb.png"][0])) as image:
    image.load()
    same, note = deep_images.reduced(image)
  assert same is image and note == ""
  assert np.abs(np.asarray(image).astype(int) - expected(COLOUR)).max() == 1


def test_later_pages_are_refused_where_they_would_be_misread():
  _, data = cv2.imencodemulti(".tif", [np.ascontiguousarray(COLOUR[..., ::-1])] * 2)
  with Image.open(io.BytesIO(data.tobytes())) as image:
    np.testing.assert_array_equal(np.asarray(deep_images.reduced(image)[0]), expected(COLOUR))
    image.seek(1)
    with pytest.raises(ValueError, match="it is page 2 of a file with 16-bit colours; save it"):
      deep_images.reduced(image)


@pytest.mark.parametrize(("largest", "warns"), [(0, False), (1, True), (4095, True), (4096, False)])
@pytest.mark.parametrize("name", ["grey.png", "rgb.tif"])
def test_16_bits_of_which_12_are_used(tmp_path, caplog, largest, warns, name):
  shape = (5, 6, 3) if name.startswith("rgb") else (5, 6)
  values = np.zeros(shape, np.uint16)
  values[2, 3] = largest
  path = epath.Path(tmp_path / name)
  path.write_bytes(written(values, path.suffix))
  words = f"{name}: it has 16 bits a channel, but its largest value is {largest} of 65535"
  assert (words in record.read_image(path).note) == warns
  np.testing.assert_array_equal(prediction_files.read_image(path), expected(values))
  assert (words in caplog.text and "multiply the values by 16" in caplog.text) == warns
