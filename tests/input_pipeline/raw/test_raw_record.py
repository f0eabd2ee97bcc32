import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image, ImageOps

from input_pipeline import prediction_files, prepared
from input_pipeline.raw import files, record

METADATA = prepared.ClassMetadata("x", ("a", "b", "c", "d"), (0, 1, 2, 3), ignore_label=255)
LABEL = np.random.default_rng(0).integers(0, 4, (24, 32), np.uint8)


@pytest.fixture
def pair(tmp_path):
  """A valid image and label."""
  coarse = np.random.default_rng(1).integers(0, 255, (4, 5, 3), np.uint8)
  image = Image.fromarray(coarse).resize((32, 24), Image.Resampling.BICUBIC)
  image.save(tmp_path / "image.jpg", "JPEG")
  Image.fromarray(LABEL).save(tmp_path / "label.png", "PNG")
  return files.Pair("x", epath.Path(tmp_path / "image.jpg"), epath.Path(tmp_path / "label.png"))


def save(path, image, file_format, **options):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **options)
  path.write_bytes(buffer.getvalue())


def write_png(path, label, depth):
  """A greyscale PNG of 1, 2 or 4 bits a pixel, which PIL cannot write."""
  bits = np.unpackbits(label[..., None], axis=-1)[..., -depth:]  # [H, W, depth]
  rows = np.packbits(bits.reshape(len(label), -1), axis=1)
  raw = b"".join(b"\0" + row.tobytes() for row in rows)
  header = struct.pack(">IIBBBBB", label.shape[1], label.shape[0], depth, 0, 0, 0, 0)
  data = b"\x89PNG\r\n\x1a\n"
  for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
    data += struct.pack(">I", len(body)) + kind + body
    data += struct.pack(">I", zlib.crc32(kind + body))
  path.write_bytes(data)


def decode(data):
  """Label values by PIL, and by OpenCV the same."""
  values = np.asarray(Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(
    values, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  )
  return values


def test_images_are_stored_untouched_and_labels_without_loss(pair):
  seen = record.read_record(pair, METADATA)
  assert seen.image == pair.image.read_bytes()
  stored = decode(seen.label)
  assert stored.dtype == np.uint8
  np.testing.assert_array_equal(stored, LABEL)
  assert seen.size == (24, 32)
  assert seen.counts[0].tolist() == [0, 1, 2, 3]
  assert seen.counts[1].tolist() == np.bincount(LABEL.ravel()).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_rows_are_not_filtered(dtype):
  label = np.random.default_rng(0).integers(0, 200, (24, 32), dtype)
  data = record.encode_label(label)
  start = data.index(b"IDAT")
  (length,) = struct.unpack(">I", data[start - 4 : start])
  rows = zlib.decompress(data[start + 4 : start + 4 + length])
  assert set(rows[:: len(rows) // 24]) == {0}  # the byte before each row
  np.testing.assert_array_equal(decode(data), label)


def test_16_bit_labels_of_many_classes_stay_16_bit(pair):
  names = tuple(map(str, range(900)))
  metadata = prepared.ClassMetadata("x", names, tuple(range(900)), ignore_label=65535)
  label = np.random.default_rng(0).choice(np.array([0, 255, 256, 899, 65535], np.uint16), (24, 32))
  save(pair.label, Image.fromarray(label), "PNG")
  seen = record.read_record(pair, metadata)
  stored = decode(seen.label)
  assert stored.dtype == np.uint16
  np.testing.assert_array_equal(stored, label)
  assert seen.counts[0].tolist() == [0, 255, 256, 899]


def test_8_bit_labels_of_many_classes_become_16_bit(pair):
  names = tuple(map(str, range(300)))
  metadata = prepared.ClassMetadata("x", names, tuple(range(300)), ignore_label=65535)
  stored = decode(record.read_record(pair, metadata).label)
  assert stored.dtype == np.uint16
  np.testing.assert_array_equal(stored, LABEL)


def test_16_bit_labels_of_few_classes_become_8_bit(pair):
  label = np.where(LABEL == 3, 255, LABEL).astype(np.uint16)
  save(pair.label, Image.fromarray(label), "PNG")
  stored = decode(record.read_record(pair, METADATA).label)
  assert stored.dtype == np.uint8
  np.testing.assert_array_equal(stored, label)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_index_is_the_label(pair, depth):
  label = np.minimum(LABEL, 2**depth - 1)
  image = Image.fromarray(label)
  image.putpalette([200, 10, 30] * 2**depth)  # PIL stores no more bits than the colours need
  save(pair.label, image, "PNG", bits=depth)
  assert pair.label.read_bytes()[24:26] == bytes([depth, 3])
  np.testing.assert_array_equal(decode(record.read_record(pair, METADATA).label), label)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_bit_depth_is_not_stretched(pair, depth):
  label = np.minimum(LABEL, 2**depth - 1)
  write_png(pair.label, label, depth)
  np.testing.assert_array_equal(decode(record.read_record(pair, METADATA).label), label)


@pytest.mark.parametrize("orientation", range(1, 10))  # 9 is none, and ignored
def test_size_is_that_of_the_upright_image(pair, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  save(pair.image, Image.open(io.BytesIO(pair.image.read_bytes())), "JPEG", exif=exif)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(pair.image.read_bytes())))
  label = LABEL.reshape(upright.height, upright.width)
  save(pair.label, Image.fromarray(label), "PNG")
  assert record.read_record(pair, METADATA).size == (upright.height, upright.width)


def test_label_of_the_lying_image_is_an_error(pair):
  exif = Image.Exif()
  exif[0x0112] = 6
  save(pair.image, Image.open(io.BytesIO(pair.image.read_bytes())), "JPEG", exif=exif)
  with pytest.raises(ValueError, match=r"label\.png: the label is 32 x 24 px .* is 24 x 32 px"):
    record.read_record(pair, METADATA)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_png_images_of_every_8_bit_mode(pair, mode):
  image = Image.open(io.BytesIO(pair.image.read_bytes())).convert(mode)
  save(pair.image, image, "PNG")
  assert record.read_record(pair, METADATA).image == pair.image.read_bytes()


def test_16_bit_images_are_stored_with_8(pair):
  save(pair.image, Image.fromarray(LABEL.astype(np.uint16) * 9000), "PNG")
  np.testing.assert_array_equal(
    decode(record.read_record(pair, METADATA).image), np.rint(LABEL * (9000 / 257))
  )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "WEBP"])
def test_images_of_other_formats_are_stored_as_pngs_of_their_pixels(pair, mode, file_format):
  image = Image.open(io.BytesIO(pair.image.read_bytes())).convert(mode)
  if (mode, file_format) in (("RGBA", "BMP"), ("CMYK", "BMP"), ("LA", "BMP"), ("CMYK", "WEBP")):
    image = image.convert("RGB")  # which the format has not
  save(pair.image, image, file_format)
  stored = record.read_record(pair, METADATA).image
  assert stored.startswith(b"\x89PNG")
  np.testing.assert_array_equal(
    np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")),
    prediction_files.read_image(pair.image),  # what a prediction sees of the file
  )
  if mode == "L" and file_format != "WEBP":  # which is lossy and has colours only
    assert Image.open(io.BytesIO(stored)).mode == "L"


def test_image_of_another_format(pair):
  save(pair.image, Image.fromarray(LABEL), "GIF")
  with pytest.raises(ValueError, match=r"image\.jpg: .*it is a GIF image; save it as JPEG or PNG"):
    record.read_record(pair, METADATA)


@pytest.mark.parametrize("kept", [0, 10, 200, 0.5, 0.9])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_image(pair, kept, progressive):
  image = Image.open(io.BytesIO(pair.image.read_bytes())).resize((320, 240))
  save(pair.image, image, "JPEG", progressive=progressive)
  data = pair.image.read_bytes()
  pair.image.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
  with pytest.raises(ValueError, match=r"image\.jpg: the image cannot be read"):
    record.read_record(pair, METADATA)


@pytest.mark.parametrize("kept", [0, 10, 30, 0.5, 0.9])
def test_truncated_label(pair, kept):
  data = pair.label.read_bytes()
  pair.label.write_bytes(data[: int(kept * len(data)) if kept < 1 else kept])
  with pytest.raises(ValueError, match=r"label\.png: the label cannot be read"):
    record.read_record(pair, METADATA)


def test_jpeg_label(pair):
  save(pair.label, Image.fromarray(LABEL), "JPEG")
  with pytest.raises(ValueError, match=r"label\.png: .* are no PNG"):
    record.read_record(pair, METADATA)


@pytest.mark.parametrize(
  ("mode", "words"), [("RGB", "RGB;"), ("RGBA", "RGB with alpha"), ("LA", "greyscale with alpha")]
)
def test_colour_label(pair, mode, words):
  save(pair.label, Image.fromarray(LABEL).convert(mode), "PNG")
  with pytest.raises(ValueError, match=rf"label\.png: the label PNG is {words}.*class indices"):
    record.read_record(pair, METADATA)


@pytest.mark.parametrize("value", [4, 254, 300])
def test_label_value_outside_the_table(pair, value):
  label = LABEL.astype(np.uint16)
  label[0, 0] = value
  save(pair.label, Image.fromarray(label), "PNG")
  with pytest.raises(ValueError, match=rf"label\.png: label value {value} .*4 classes.* 255"):
    record.read_record(pair, METADATA)


def test_size_mismatch(pair):
  save(pair.label, Image.fromarray(LABEL[:, :31]), "PNG")
  with pytest.raises(ValueError, match=r"label\.png: .* 31 x 24 px .*image\.jpg is 32 x 24 px"):
    record.read_record(pair, METADATA)
