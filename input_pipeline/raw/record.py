"""Reads and checks one image and its label, and gives the bytes to store.

Images are stored untouched. They are checked under the decoder's convention: the EXIF orientation
is applied, so a label must have the size of the upright image.
Labels are encoded anew without loss, as greyscale PNGs of the data set's bit depth that decode in
half the time of usual ones; decoders would expand palettes to colours, and stretch low depths.
"""

import dataclasses
import io

import cv2
import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import class_stats, decode, prepared
from input_pipeline.raw import files

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_OPTIONS = (
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
  *(cv2.IMWRITE_PNG_COMPRESSION, 6),
)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_GREY, _PALETTE = 0, 3  # PNG colour types
_COLOUR_TYPES = {2: "RGB", 4: "greyscale with alpha", 6: "RGB with alpha"}
_RGB_TYPES = (2, 6)
# MPO is what PIL calls the JPEGs of many phones, which carry a second picture.
_IMAGE_FORMATS = ("JPEG", "MPO", "PNG")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class Record:
  """One example to store, with its statistics.

  Attributes:
    file_name: of the image.
    image: JPEG or PNG bytes.
    label: greyscale PNG bytes.
    size: (height, width) in pixels.
    counts: (class_ids, pixels) of the label.
    note: what the user should know about the example; empty where there is nothing.
  """

  file_name: str
  image: bytes
  label: bytes
  size: tuple[int, int]
  counts: tuple[np.ndarray, np.ndarray]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class RawImage:
  """The bytes of an image file.

  Attributes:
    path: of the file.
    data: its bytes; those of a truncated JPEG end in an end-of-image marker.
    size: (height, width) of the upright image in pixels.
    note: says that the file is truncated; else empty.
  """

  path: epath.Path
  data: bytes
  size: tuple[int, int]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class RawLabel:
  """A decoded label file.

  Attributes:
    path: of the file.
    values: uint8 or uint16 [H, W].
  """

  path: epath.Path
  values: np.ndarray


def label_dtype(ignore_label: int) -> type[np.unsignedinteger]:
  """The one type of all the labels of a data set: the smallest that holds the ignore label."""
  return np.uint8 if ignore_label <= 255 else np.uint16


def read_record(pair: files.Pair, metadata: prepared.ClassMetadata) -> Record:
  """Reads one example whose label values are the class indices.

  Args:
    pair: the files.
    metadata: classes and ignore label.

  Returns:
    The bytes to store and the statistics.

  Raises:
    ValueError: if a file cannot be decoded, the sizes differ or the label holds a value that is no
      class; names the file.
  """
  image = read_image(pair.image)
  label = read_label(pair.label)
  check_size(label.path, label.values, image.path, image.size)
  counts = count_pixels(label.path, label.values, metadata)
  dtype = label_dtype(metadata.ignore_label)
  data = encode_label(label.values.astype(dtype))  # every value passed the count, so it fits
  return Record(pair.image.name, image.data, data, image.size, counts)


def read_bytes(path: epath.Path) -> bytes:
  """Reads a file; a missing one is a ValueError, which the preparation lists with the others."""
  try:
    return path.read_bytes()
  except FileNotFoundError as error:
    raise ValueError(f"{path}: the file is missing") from error


def read_image(path: epath.Path, *, mend_truncated: bool = False) -> RawImage:
  """Reads an image file and decodes it once.

  Args:
    path: of a JPEG or PNG.
    mend_truncated: True to accept JPEGs that end too early. An end-of-image marker is put behind
      their bytes: decoders then give the same pixels as far as there are any, and grey after that.

  Returns:
    The bytes and the size.

  Raises:
    ValueError: if the file is missing, cannot be decoded or is of another kind; names it.
  """
  data = read_bytes(path)
  try:
    return RawImage(path, data, _image_size(path, data))
  except ValueError:
    if not (mend_truncated and data.startswith(_JPEG_START)):
      raise
  size = _image_size(path, data + _JPEG_END)
  note = f"{path}: the JPEG ends too early ({len(data)} bytes); what is missing is grey"
  return RawImage(path, data + _JPEG_END, size, note)


def _image_size(path: epath.Path, data: bytes) -> tuple[int, int]:
  """Decodes the image once and returns (height, width) after EXIF orientation."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      width, height = image.size
      file_format, mode = image.format, image.mode
      size = decode.upright_size(image)
      # Reads every byte of a JPEG but computes an eighth of the size: finds truncation in less
      # time.
      image.draft(None, (max(1, width // 8), max(1, height // 8)))
      image.load()
  except _DECODE_ERRORS as error:
    raise ValueError(f"{path}: the image cannot be read ({_reason(error, data)})") from error
  if file_format not in _IMAGE_FORMATS:
    raise ValueError(f"{path}: the file holds a {file_format} image; JPEG or PNG is needed")
  if mode in _DEEP_MODES:
    raise ValueError(f"{path}: the image has more than 8 bits a channel; 8 are needed")
  return size


def _reason(error: Exception, data: bytes) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return f"its {len(data)} bytes are no image"
  return str(error)


def _png_header(path: epath.Path, data: bytes) -> tuple[int, int]:
  """Returns (bit depth, colour type)."""
  if not data.startswith(_PNG_SIGNATURE) or len(data) < 26:
    raise ValueError(f"{path}: the label cannot be read (its {len(data)} bytes are no PNG)")
  return data[24], data[25]


def _decode_png(path: epath.Path, data: bytes) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      return np.asarray(image)
  except _DECODE_ERRORS as error:
    raise ValueError(f"{path}: the label cannot be read ({_reason(error, data)})") from error


def read_label(path: epath.Path, *, only_8_bit: bool = False) -> RawLabel:
  """Reads a label PNG of one channel; the values of a palette PNG are its indices.

  Args:
    path: of the file.
    only_8_bit: whether one of 16 bits is an error.

  Raises:
    ValueError: if the file is missing, cannot be decoded or has colours; names it.
  """
  data = read_bytes(path)
  depth, colour_type = _png_header(path, data)
  if only_8_bit:
    _check_8_bit(path, depth)
  if colour_type in _COLOUR_TYPES:
    raise ValueError(
      f"{path}: the label PNG is {_COLOUR_TYPES[colour_type]}; a label has one channel whose value"
      " is the class index. Convert the colours to class indices first"
    )
  label = _decode_png(path, data)
  if colour_type == _GREY and depth < 8:
    label = label.astype(np.uint8)
    if depth > 1:  # PIL stretches 2 and 4 bits to 0..255, but gives 1 bit as 0 and 1
      label //= 255 // (2**depth - 1)
  return RawLabel(path, label)


def is_rgb(path: epath.Path) -> bool:
  """Whether a label PNG has three channels, or three and alpha; reads its header only."""
  with path.open("rb") as file:
    return _png_header(path, file.read(26))[1] in _RGB_TYPES


def _check_8_bit(path: epath.Path, depth: int) -> None:
  if depth > 8:
    raise ValueError(
      f"{path}: the label PNG has {depth} bits a channel, the published ones have 8; read as 8 bits"
      " it would lose classes. Use the published file"
    )


def read_rgb_label(path: epath.Path) -> np.ndarray:
  """Reads a label PNG of three channels (or three and alpha) with 8 bits each.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: if the file is missing, cannot be decoded or is of another kind; names it.
  """
  data = read_bytes(path)
  depth, colour_type = _png_header(path, data)
  if colour_type not in _RGB_TYPES:
    kind = _COLOUR_TYPES.get(colour_type, "one channel")
    raise ValueError(f"{path}: the label PNG is {kind}; the published ones are RGB")
  _check_8_bit(path, depth)
  return _decode_png(path, data)[..., :3]  # [H, W, 3]


def check_size(
  label_path: epath.Path, label: np.ndarray, image_path: epath.Path, size: tuple[int, int]
) -> None:
  """Raises a ValueError if a label [H, W] does not have the (height, width) of its image."""
  if label.shape[:2] != size:
    raise ValueError(
      f"{label_path}: the label is {label.shape[1]} x {label.shape[0]} px (width x height) but"
      f" {image_path} is {size[1]} x {size[0]} px (upright, EXIF orientation applied)"
    )


def count_pixels(
  path: epath.Path, label: np.ndarray, metadata: prepared.ClassMetadata
) -> tuple[np.ndarray, np.ndarray]:
  """As `class_stats.count_pixels`; the error names the file."""
  try:
    return class_stats.count_pixels(label, metadata.num_classes, metadata.ignore_label)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def encode_label(label: np.ndarray) -> bytes:
  """Encodes a label uint8 or uint16 [H, W] as a greyscale PNG of the same depth.

  Rows are not filtered: label maps compress as well without, and decode in half the time.
  """
  _, data = cv2.imencode(".png", label, _PNG_OPTIONS)
  return data.tobytes()
