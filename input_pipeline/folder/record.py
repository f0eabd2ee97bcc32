"""Reads and checks one image and its label, and gives the bytes to store.

Images are stored untouched. They are checked under the decoder's convention: the EXIF orientation
is applied, so a label must have the size of the upright image.
Labels are stored untouched where they are greyscale PNGs of the data set's bit depth. Others
(palette PNGs, whose palette index is the label; 1, 2 and 4 bit PNGs; the other depth) are encoded
anew without loss, because decoders expand palettes to colours and stretch low depths to 0..255.
"""

import dataclasses
import io

import numpy as np
from etils import epath
from PIL import ExifTags, Image

from input_pipeline import class_stats, prepared
from input_pipeline.folder import layout

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # PNG colour types
_COLOUR_TYPES = {2: "RGB", 4: "greyscale with alpha", 6: "RGB with alpha"}
# MPO is what PIL calls the JPEGs of many phones, which carry a second picture.
_IMAGE_FORMATS = ("JPEG", "MPO", "PNG")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class Record:
  """One example to store, with its statistics.

  Attributes:
    stem: file stem.
    image: JPEG or PNG bytes.
    label: greyscale PNG bytes.
    size: (height, width) in pixels.
    counts: (class_ids, pixels) of the label.
  """

  stem: str
  image: bytes
  label: bytes
  size: tuple[int, int]
  counts: tuple[np.ndarray, np.ndarray]


def label_dtype(ignore_label: int) -> type[np.unsignedinteger]:
  """The one type of all the labels of a data set: the smallest that holds the ignore label."""
  return np.uint8 if ignore_label <= 255 else np.uint16


def read_record(pair: layout.Pair, metadata: prepared.ClassMetadata) -> Record:
  """Reads one example.

  Args:
    pair: the files.
    metadata: classes and ignore label.

  Returns:
    The bytes to store and the statistics.

  Raises:
    ValueError: if a file cannot be decoded, the sizes differ or the label holds a value that is no
      class; names the file.
  """
  image = pair.image.read_bytes()
  height, width = _image_size(pair.image, image)
  data = pair.label.read_bytes()
  label, is_plain_grey = _decode_label(pair.label, data)  # [H, W]
  if label.shape != (height, width):
    raise ValueError(
      f"{pair.label}: the label is {label.shape[1]} x {label.shape[0]} px (width x height) but"
      f" {pair.image} is {width} x {height} px (upright, EXIF orientation applied)"
    )
  try:
    counts = class_stats.count_pixels(label, metadata.num_classes, metadata.ignore_label)
  except ValueError as error:
    raise ValueError(f"{pair.label}: {error}") from error
  dtype = label_dtype(metadata.ignore_label)
  if not is_plain_grey or label.dtype != dtype:
    data = _encode_label(label.astype(dtype))  # every value passed count_pixels, so it fits
  return Record(pair.stem, image, data, (height, width), counts)


def _image_size(path: epath.Path, data: bytes) -> tuple[int, int]:
  """Decodes the image once and returns (height, width) after EXIF orientation."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      width, height = image.size
      file_format, mode = image.format, image.mode
      # Reads every byte of a JPEG but computes an eighth of the size: finds truncation in less
      # time.
      image.draft(None, (max(1, width // 8), max(1, height // 8)))
      image.load()
      orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
  except _DECODE_ERRORS as error:
    raise ValueError(f"{path}: the image cannot be read ({_reason(error, data)})") from error
  if file_format not in _IMAGE_FORMATS:
    raise ValueError(f"{path}: the file holds a {file_format} image; JPEG or PNG is needed")
  if mode in _DEEP_MODES:
    raise ValueError(f"{path}: the image has more than 8 bits a channel; 8 are needed")
  return (width, height) if orientation >= 5 else (height, width)


def _reason(error: Exception, data: bytes) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return f"its {len(data)} bytes are no image"
  return str(error)


def _decode_label(path: epath.Path, data: bytes) -> tuple[np.ndarray, bool]:
  """Returns the label map [H, W] and whether it is stored as 8 or 16 bit greyscale."""
  if not data.startswith(_PNG_SIGNATURE) or len(data) < 26:
    raise ValueError(f"{path}: the label cannot be read (its {len(data)} bytes are no PNG)")
  depth, colour_type = data[24], data[25]
  if colour_type in _COLOUR_TYPES:
    raise ValueError(
      f"{path}: the label PNG is {_COLOUR_TYPES[colour_type]}; a label has one channel whose value"
      " is the class index. Convert the colours to class indices first"
    )
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      label = np.asarray(image)
  except _DECODE_ERRORS as error:
    raise ValueError(f"{path}: the label cannot be read ({_reason(error, data)})") from error
  if colour_type == _GREY and depth < 8:
    label = label.astype(np.uint8)
    if depth > 1:  # PIL stretches 2 and 4 bits to 0..255, but gives 1 bit as 0 and 1
      label //= 255 // (2**depth - 1)
  return label, colour_type == _GREY and depth >= 8


def _encode_label(label: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(label).save(buffer, "PNG")
  return buffer.getvalue()
