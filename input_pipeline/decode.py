"""Decoding of image and label bytes, with errors that name the file."""

import io

import numpy as np
from PIL import Image, ImageOps


def decode_image(data: bytes, name: str) -> np.ndarray:
  """Decodes an encoded image to RGB, turned upright by its EXIF orientation.

  Args:
    data: JPEG or PNG bytes.
    name: file name for the error message.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: if the bytes cannot be decoded.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      return np.array(ImageOps.exif_transpose(image).convert("RGB"))  # [H, W, 3]
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ValueError(
      f"{name}: the image cannot be decoded ({error}). Replace the file and prepare the data again."
    ) from error


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
