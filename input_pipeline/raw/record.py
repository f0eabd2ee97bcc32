"""Reads and checks one image and its label, and gives the bytes to store.

JPEGs and PNGs of 8 bits a channel are stored untouched, other images as PNGs of the pixels that
`decode` makes of them. They are checked under the decoder's convention: the EXIF orientation is
applied, so a label must have the size of the upright image.
Labels are encoded anew without loss, as greyscale PNGs of the data set's bit depth that decode in
half the time of usual ones; decoders would expand palettes to colours, and stretch low depths.
"""

import dataclasses

import cv2
import numpy as np
from etils import epath

from input_pipeline import class_stats, decode, deep_images, file_access, prepared
from input_pipeline.raw import files, label_png
from input_pipeline.raw.label_history import History, meaning

_PNG_OPTIONS = (
  *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
  *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
  *(cv2.IMWRITE_PNG_COMPRESSION, 6),
)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# MPO is what PIL calls the JPEGs of many phones, which carry a second picture.
_STORED_FORMATS = ("JPEG", "MPO", "PNG")
_IMAGE_FORMATS = (*_STORED_FORMATS, "BMP", "TIFF", "WEBP")


@dataclasses.dataclass(frozen=True)
class Record:
  """One example to store, with its statistics.

  Attributes:
    file_name: path of the image below the folder of its split.
    image: JPEG or PNG bytes.
    label: greyscale PNG bytes.
    size: (height, width) in pixels.
    counts: (class_ids, pixels) of the label.
    note: message about the example to the user; empty where there is nothing.
  """

  file_name: str
  image: bytes
  label: bytes
  size: tuple[int, int]
  counts: tuple[np.ndarray, np.ndarray]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class RawImage:
  """The bytes to store of an image file.

  Attributes:
    path: the file.
    data: JPEG or PNG; those of a truncated JPEG end in an end-of-image marker.
    size: (height, width) of the upright image in pixels.
    note: says that the file is truncated or uses few of its 16 bits; else empty.
  """

  path: epath.Path
  data: bytes
  size: tuple[int, int]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class RawLabel:
  """A decoded label file.

  Attributes:
    path: the file.
    values: uint8 or uint16 [H, W].
  """

  path: epath.Path
  values: np.ndarray


def label_dtype(ignore_label: int) -> type[np.unsignedinteger]:
  """The one type of all the labels of a data set: the smallest that holds the ignore label."""
  return np.uint8 if ignore_label <= 255 else np.uint16


def read_record(
  pair: files.Pair, metadata: prepared.ClassMetadata, history: History = History.AS_STORED
) -> Record:
  """Reads one example whose label values are the class indices.

  Args:
    pair: the files.
    metadata: classes and ignore label.
    history: label history of the data set.

  Returns:
    The bytes to store and the statistics.

  Raises:
    ValueError: if a file cannot be decoded, the sizes differ or the label holds a value that is no
      class; names the file.
  """
  file_access.check_name(pair.image)
  image = read_image(pair.image)
  label = read_label(pair.label, history=history)
  check_size(label.path, label.values, image.path, image.size)
  counts = count_pixels(label.path, label.values, metadata)
  dtype = label_dtype(metadata.ignore_label)
  data = encode_label(label.values.astype(dtype))  # every value passed the count, so it fits
  return Record(pair.file_name, image.data, data, image.size, counts, image.note)


def read_image(path: epath.Path, *, mend_truncated: bool = False) -> RawImage:
  """Reads an image file and decodes it once.

  Args:
    path: a JPEG, PNG, BMP, TIFF or WebP.
    mend_truncated: True to accept JPEGs that end too early. An end-of-image marker is put behind
      their bytes: decoders then give the same pixels as far as there are any, and grey after that.

  Returns:
    The bytes and the size.

  Raises:
    ValueError: if the file is missing, cannot be decoded or is of another kind; names it.
  """
  data = file_access.read_bytes(path)
  try:
    return _raw_image(path, data)
  except ValueError:
    if not (mend_truncated and data.startswith(_JPEG_START)):
      raise
  note = f"{path}: the JPEG ends too early ({len(data)} bytes); what is missing is grey"
  return dataclasses.replace(_raw_image(path, data + _JPEG_END), note=note)


def _raw_image(path: epath.Path, data: bytes) -> RawImage:
  """Decodes the image once; as it is stored."""
  try:
    with decode.open_image(data) as image:
      width, height = image.size
      file_format = image.format
      if file_format not in _IMAGE_FORMATS:
        raise ValueError(f"it is a {file_format} image; save it as JPEG or PNG")
      shallow, note = deep_images.reduced(image)
      if shallow is not image or file_format not in _STORED_FORMATS:
        pixels = np.asarray(decode.upright_rgb(shallow))  # [H, W, 3]
        note = f"{path}: {note}" if note else ""
        return RawImage(path, encode_image(pixels), pixels.shape[:2], note)
      size = decode.upright_size(image)
      # Reads every byte of a JPEG but computes an eighth of the size: finds truncation in less
      # time.
      image.draft(None, (max(1, width // 8), max(1, height // 8)))
      image.load()
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ValueError(
      f"{path}: the image cannot be read ({label_png.reason(error, data)})"
    ) from error
  return RawImage(path, data, size)


def read_label(
  path: epath.Path, *, only_8_bit: bool = False, history: History = History.AS_STORED
) -> RawLabel:
  """Reads a label PNG of one channel; the values of a palette PNG are its indices.

  Args:
    path: the file.
    only_8_bit: whether one of 16 bits is an error.
    history: meaning of the stored numbers, for the whole data set.

  Raises:
    ValueError: if the file is missing, cannot be decoded or has colours; names it.
  """
  data = file_access.read_bytes(path)
  header = label_png.parse_header(path, data)
  if only_8_bit:
    _check_8_bit(path, header.depth)
  if header.colour_type in label_png.COLOUR_TYPES:
    raise ValueError(
      f"{path}: the label PNG is {label_png.COLOUR_TYPES[header.colour_type]}; a label has one"
      " channel whose value is the class index. Convert the colours to class indices first"
    )
  label = label_png.decode(path, data, header)
  if history is not History.AS_STORED and header.depth <= 8:
    values = meaning(header, history)
    label = values.astype(np.uint8 if values.max() <= 255 else np.uint16)[label]
  return RawLabel(path, label)


def is_rgb(path: epath.Path) -> bool:
  """Whether a label PNG has three channels, or three and alpha; reads its header only."""
  return label_png.read_header(path).colour_type in label_png.RGB_TYPES


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
  data = file_access.read_bytes(path)
  header = label_png.parse_header(path, data)
  if header.colour_type not in label_png.RGB_TYPES:
    kind = label_png.COLOUR_TYPES.get(header.colour_type, "one channel")
    raise ValueError(f"{path}: the label PNG is {kind}; the published ones are RGB")
  _check_8_bit(path, header.depth)
  return label_png.decode(path, data, header)[..., :3]  # [H, W, 3]


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


def encode_image(image: np.ndarray) -> bytes:
  """Encodes RGB, uint8 [H, W, 3], as a PNG; grey pixels as one of a single channel."""
  grey = image[..., 0]
  is_grey = (grey == image[..., 1]).all() and (grey == image[..., 2]).all()
  _, data = cv2.imencode(".png", grey if is_grey else image[..., ::-1])
  return data.tobytes()


def encode_label(label: np.ndarray) -> bytes:
  """Encodes a label uint8 or uint16 [H, W] as a greyscale PNG of the same depth.

  Rows are not filtered: label maps compress as well without, and decode in half the time.
  """
  _, data = cv2.imencode(".png", label, _PNG_OPTIONS)
  return data.tobytes()
