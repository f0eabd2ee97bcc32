"""The pixels of label PNGs as the file holds them: grey values, unscaled, or palette indices."""

import dataclasses
import io
import struct
from typing import BinaryIO

import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import file_access

GREY, PALETTE = 0, 3  # PNG colour types
COLOUR_TYPES = {2: "RGB", 4: "greyscale with alpha", 6: "RGB with alpha"}
RGB_TYPES = (2, 6)
_DEPTHS = (1, 2, 4, 8, 16)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True, eq=False)
class Header:
  """What stands before the pixels of a PNG.

  Attributes:
    depth: bits a channel, or of a palette index: 1, 2, 4, 8 or 16.
    colour_type: PNG's number: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
    palette: colours by index, uint8 [n, 3]; empty where there is none.
  """

  depth: int
  colour_type: int
  palette: np.ndarray

  @property
  def greys(self) -> np.ndarray | None:
    """Grey value of every index, uint8 [n]; None where the palette has a colour or is none."""
    is_grey = (self.palette == self.palette[:, :1]).all() and len(self.palette)
    return self.palette[:, 0] if is_grey else None


def read_header(path: epath.Path) -> Header:
  """Reads a file as far as its pixels.

  Raises:
    ValueError: it cannot be read or is no PNG; names it.
  """
  if why := file_access.problem(path):
    raise file_access.FileError(f"{file_access.printable(path)}: {why}")
  try:
    with path.open("rb") as file:
      return _header(file, path)
  except OSError as error:
    raise ValueError(f"{path}: the label cannot be read ({error})") from error


def parse_header(path: epath.Path, data: bytes) -> Header:
  """As `read_header`, of a file's bytes; the path is for the message."""
  return _header(io.BytesIO(data), path)


def _header(file: BinaryIO, path: epath.Path) -> Header:
  start = file.read(33)  # signature and first chunk
  if not start.startswith(_SIGNATURE) or len(start) < 33:
    size = len(start) + len(file.read())
    why = f"its {size} bytes are no PNG" if size else "the file is empty"
    raise ValueError(f"{path}: the label cannot be read ({why})")
  palette = np.zeros((0, 3), np.uint8)
  depth, colour_type = start[24], start[25]
  if depth not in _DEPTHS:
    raise ValueError(f"{path}: the label cannot be read (PNGs have no {depth} bits a channel)")
  while colour_type == PALETTE and len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
    (length,) = struct.unpack(">I", head[:4])
    if head[4:] == b"PLTE":
      colours = np.frombuffer(file.read(length), np.uint8)
      palette = colours[: len(colours) // 3 * 3].reshape(-1, 3)
      break
    file.seek(length + 4, io.SEEK_CUR)
  return Header(depth, colour_type, palette)


def decode(path: epath.Path, data: bytes, header: Header) -> np.ndarray:
  """Decodes the pixels as the file holds them.

  Args:
    path: the file, for the message.
    data: bytes of the file.
    header: its header.

  Returns:
    uint8 or uint16: [H, W] of one channel, else [H, W, channels].

  Raises:
    ValueError: they cannot be decoded; names the file.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      pixels = np.asarray(image)
  except _DECODE_ERRORS as error:
    raise ValueError(f"{path}: the label cannot be read ({reason(error, data)})") from error
  if header.colour_type == GREY and header.depth < 8:
    pixels = pixels.astype(np.uint8)
    if header.depth > 1:  # PIL stretches 2 and 4 bits to 0..255, but gives 1 bit as 0 and 1
      pixels //= 255 // (2**header.depth - 1)
  return pixels


def reason(error: Exception, data: bytes) -> str:
  """What an error of Pillow means for the bytes of a file."""
  if isinstance(error, Image.UnidentifiedImageError):
    return f"its {len(data)} bytes are no image" if data else "the file is empty"
  return str(error)
