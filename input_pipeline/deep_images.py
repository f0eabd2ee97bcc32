"""Images of more than 8 bits a channel: one rule for training, evaluation, prediction and Python.

Of 16 bits, v becomes round(v / 257), which takes 0..65535 to 0..255. Everything else is refused: of
floating-point values and of 32-bit integers no file says what is white.

Pillow by itself clips 16-bit grey at 255 when it is converted, and keeps the upper byte of 16-bit
colours without a word (which is lower by one for a quarter of all values). So colours are decoded
by OpenCV. Both libraries misread TIFFs that store 16-bit channels apart, which are refused too.
"""

import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

_PNG_SIGNATURE, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # and the place of the depth
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT = 258, 262, 277, 284, 339  # TIFF tags
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED, _FLOAT = 1, 3
_REMEDY = "save it with 8 or 16 bits a channel, grey or RGB, as PNG"
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_FEW_BITS = 4096  # values below it fit into 12 bits
_TO_8_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)


def to_8_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
  """Scales 16 bits to 8.

  Args:
    values: uint16, any shape.

  Returns:
    (uint8, what the user should know: that 12 bits or fewer are in use; else "").
  """
  largest = int(values.max(initial=0))
  note = ""
  if 0 < largest < _FEW_BITS:
    note = (
      f"it has 16 bits a channel, but its largest value is {largest} of 65535, so it is read as"
      " almost black; if 12 bits are meant, multiply the values by 16 and save it again"
    )
  return _TO_8_BITS[values], note


def reduced(image: Image.Image) -> tuple[Image.Image, str]:
  """Brings an image to 8 bits a channel; to be called before anything else decodes it.

  Args:
    image: image as Pillow opens it. Colours of 16 bits that it has decoded already have 8 for good,
      the upper ones.

  Returns:
    (the image itself where it has 8 bits, else an 8-bit one of the same orientation; what the user
    should know, or "").

  Raises:
    ValueError: its values have no known scale, or its layout would be misread.
  """
  tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
  if tags and (why := tiff_problem(tags)):
    raise ValueError(why)
  if image.mode == "F":
    raise ValueError(f"its values are floating-point numbers; {_REMEDY}")
  if image.mode == "I" and image.format != "PPM":  # which Pillow scales to 65535
    raise ValueError(f"its values are 32-bit integers; {_REMEDY}")
  if image.mode == "I" or image.mode.startswith("I;16"):
    values = np.asarray(image).astype(np.uint16)  # [H, W]
    if tags and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
      values = ~values
  elif (data := _undecoded_16_bits(image, tags)) is not None:
    values = _decode_colours(image, data)  # [H, W, 3]
  else:
    return image, ""
  values, note = to_8_bits(values)
  result = Image.fromarray(values)
  # Pillow turns a TIFF upright when it decodes it, and forgets the tag then; so does OpenCV.
  turned = image.getexif().get(ExifTags.Base.Orientation)
  if turned is not None and not (tags and values.ndim == 3):
    result.getexif()[ExifTags.Base.Orientation] = turned
  return result, note


def unknown_layout(data: bytes) -> str:
  """Says why Pillow does not know an image: a TIFF's layout, as `tiff_problem`; else ""."""
  if not data.startswith(_TIFF_STARTS):
    return ""
  try:
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2] + data[3] == 43 else 8))
    file.seek(tags.next)
    tags.load(file)
    return tiff_problem(tags)
  except Exception:  # Pillow's reader of tags raises a dozen unrelated types on bad bytes.
    return ""


def tiff_problem(tags: Mapping[int, Any]) -> str:
  """Says why a TIFF of more than 8 bits a channel cannot be read; "" where it can or has 8.

  Args:
    tags: tags of its page.
  """
  bits, formats = max(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (_UNSIGNED,)))
  samples, planar = tags.get(_SAMPLES, 1), tags.get(_PLANAR, 1)
  if bits <= 8:
    return ""
  if _FLOAT in formats:
    return f"its values are floating-point numbers; {_REMEDY}"
  if bits != 16 or formats != {_UNSIGNED}:
    kind = "" if formats == {_UNSIGNED} else ", which are not plain unsigned integers"
    return f"it has {bits} bits a channel{kind}; {_REMEDY}"
  layout = (tags.get(_PHOTOMETRIC), samples, planar if samples > 1 else 1)
  grey = [(kind, 1, 1) for kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)]
  if layout not in (*grey, (_RGB, 3, 1), (_RGB, 4, 1)):
    return (
      f"it is a TIFF of 16 bits with {samples} channels (PhotometricInterpretation {layout[0]},"
      f" PlanarConfiguration {planar}), which is not read; {_REMEDY}"
    )
  return ""


def _undecoded_16_bits(image: Image.Image, tags: Mapping[int, Any] | None) -> bytes | None:
  """The file of an image with 16-bit colours that Pillow has not decoded yet; else None."""
  file = getattr(image, "fp", None)
  if image.format not in ("PNG", "TIFF") or not getattr(image, "tile", None) or file is None:
    return None
  place = file.tell()
  file.seek(0)
  if tags is None:
    start = file.read(_PNG_DEPTH + 1)
    is_deep = start.startswith(_PNG_SIGNATURE) and start[_PNG_DEPTH] == 16
  else:
    is_deep = max(tags.get(_BITS, (1,))) == 16
  data = None
  if is_deep:
    file.seek(0)
    data = file.read()
  file.seek(place)
  return data


def _decode_colours(image: Image.Image, data: bytes) -> np.ndarray:
  """RGB, uint16 [H, W, 3], without alpha."""
  if image.tell():
    raise ValueError(f"it is page {image.tell() + 1} of a file with 16-bit colours; {_REMEDY}")
  image.load()  # which notices what is damaged or cut off; OpenCV gives what there is
  try:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), _COLOUR)  # [H, W, 3]
  except cv2.error:
    bgr = None
  sizes = (image.size, image.size[::-1])  # OpenCV's is upright where Pillow's may not be
  if bgr is None or bgr.dtype != np.uint16 or bgr.shape[:2] not in sizes:
    raise ValueError(f"its 16-bit colours cannot be decoded; {_REMEDY}")
  return np.ascontiguousarray(bgr[..., ::-1])
