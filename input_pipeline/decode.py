"""Decoding of image and label bytes, with errors that name the file."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from absl import logging
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from input_pipeline import deep_images

# EXIF orientations in which rows of the file are columns of the upright image.
_TURNED = (5, 6, 7, 8)
_TIFF_SIZE = (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH)


def open_image(data: bytes) -> Image.Image:
  """Opens an encoded image; the error says what is not read of it where Pillow does not know it."""
  try:
    return Image.open(io.BytesIO(data))
  except UnidentifiedImageError as error:
    if why := deep_images.unknown_layout(data):
      raise ValueError(why) from error
    raise


@contextlib.contextmanager
def _image_errors(name: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ValueError(
      f"{name}: the image cannot be decoded ({error}). Replace the file and prepare the data again."
    ) from error


def _is_turned(image: Image.Image) -> bool:
  return image.getexif().get(ExifTags.Base.Orientation) in _TURNED


def upright_size(image: Image.Image) -> tuple[int, int]:
  """(height, width) in pixels of an image once it is upright by its EXIF orientation."""
  width, height = image.size
  turned = _is_turned(image)
  if turned and image.format == "TIFF":  # whose size Pillow gives as it will be
    width, height = (image.tag_v2[tag] for tag in _TIFF_SIZE)
  return (width, height) if turned else (height, width)


def upright_rgb(image: Image.Image) -> Image.Image:
  """Turns an image upright by its EXIF orientation and converts it to RGB.

  Args:
    image: image of 8 bits a channel (`deep_images.reduced`) and any mode; transparency is dropped.

  Returns:
    RGB; the same image where it is that already.
  """
  image.load()
  ImageOps.exif_transpose(image, in_place=True)
  return image if image.mode == "RGB" else image.convert("RGB")


def decode_image(data: bytes, name: str) -> np.ndarray:
  """Decodes an encoded image to RGB, turned upright by its EXIF orientation.

  Warns where it has 16 bits and uses 12 of them.

  Args:
    data: bytes of an image of any kind that Pillow reads.
    name: file name for messages.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: if the bytes cannot be decoded, or have no known scale (`deep_images`).
  """
  with _image_errors(name), open_image(data) as image:
    shallow, note = deep_images.reduced(image)
    if note:
      logging.warning("%s: %s", name, note)
    return np.array(upright_rgb(shallow))  # [H, W, 3]


class EncodedImage:
  """An image whose size is known before it is decoded, so that a JPEG may be decoded smaller.

  Args:
    data: JPEG or PNG bytes.
    name: file name for the error message.

  Attributes:
    size: (height, width) of the upright image in pixels.

  Raises:
    ValueError: if the bytes are no image.
  """

  def __init__(self, data: bytes, name: str):
    self._name = name
    with _image_errors(name):
      self._image, _ = deep_images.reduced(open_image(data))
      self._turned = _is_turned(self._image)
      self.size = upright_size(self._image)

  def decode(self, least_size: tuple[int, int] | None = None) -> Image.Image:
    """Decodes the image, once.

    Args:
      least_size: (height, width) in pixels. A JPEG comes at 1/2, 1/4 or 1/8 of its size (libjpeg's
        scaled inverse transform), the smallest that is at least this large. None: at its own size.

    Returns:
      RGB, upright.

    Raises:
      ValueError: if the bytes cannot be decoded.
    """
    with _image_errors(self._name), self._image as image:
      if least_size is not None and image.format == "JPEG":
        height, width = least_size
        image.draft(None, (height, width) if self._turned else (width, height))
      return upright_rgb(image)


def decode_label(data: bytes, name: str) -> np.ndarray:
  """Decodes a label PNG, keeping its values exactly.

  Args:
    data: bytes of a PNG with one channel of 8 or 16 bit.
    name: file name for the error message.

  Returns:
    uint8 or uint16 [H, W].

  Raises:
    ValueError: if the bytes cannot be decoded or hold another kind of image.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      label = np.array(image)
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ValueError(
      f"{name}: the label cannot be decoded ({error}). Replace the file and prepare the data again."
    ) from error
  if label.ndim != 2 or label.dtype not in (np.uint8, np.uint16):
    raise ValueError(
      f"{name}: the label has shape {label.shape} and type {label.dtype}; "
      "a PNG with one channel of 8 or 16 bit is needed."
    )
  return label
