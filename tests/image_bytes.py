"""PNG and TIFF files of every kind, which no library at hand writes, and a small PNG optimizer."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG colour types
COLOUR_TYPES = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}  # by number of channels
CHUNKY, APART = 1, 2  # how a TIFF stores its channels


def chunk(kind: bytes, body: bytes) -> bytes:
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values, depth, colour_type=None, palette=None, chunks=b"") -> bytes:
  """A PNG.

  Args:
    values: numbers to store, [H, W] or [H, W, channels].
    depth: bits of each.
    colour_type: as PNG numbers them; by the number of channels if None.
    palette: colours [n, 3], which make it a palette PNG.
    chunks: other ones, before the pixels.
  """
  values = np.atleast_3d(np.asarray(values))
  height, width, channels = values.shape
  if palette is not None:
    colour_type = PALETTE
    chunks = chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes()) + chunks
  elif colour_type is None:
    colour_type = COLOUR_TYPES[channels]
  if depth < 8:
    bits = np.unpackbits(values.astype(np.uint8), axis=-1)[..., -depth:]  # [H, W, depth]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
  else:
    rows = values.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
  pixels = b"".join(b"\0" + row.tobytes() for row in rows)
  header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
  parts = (chunk(b"IHDR", header), chunks, chunk(b"IDAT", zlib.compress(pixels)))
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(values, *, photometric=None, orientation=1, order="<", sample_format=1, layout=CHUNKY):
  """A TIFF without compression.

  Args:
    values: [H, W] or [H, W, channels], of the type to store.
    photometric: 0 white is zero, 1 black is zero, 2 RGB; by the number of channels if None.
    orientation: 1 to 8, as in EXIF.
    order: "<" or ">": of the bytes.
    sample_format: 1 unsigned, 2 signed, 3 floating-point.
    layout: of the channels.
  """
  values = np.atleast_3d(values)
  height, width, channels = values.shape
  strips = channels if layout == APART else 1
  pixels = np.moveaxis(values, -1, 0) if layout == APART else values
  data = np.ascontiguousarray(pixels).astype(values.dtype.newbyteorder(order)).tobytes()
  size = len(data) // strips
  photometric = (2 if channels > 2 else 1) if photometric is None else photometric
  fields = [
    *((256, "I", [width]), (257, "I", [height])),
    *((258, "H", [8 * values.dtype.itemsize] * channels), (259, "H", [1])),
    *((262, "H", [photometric]), (273, "I", [size * i for i in range(strips)])),
    *((274, "H", [orientation]), (277, "H", [channels]), (278, "I", [height])),
    *((279, "I", [size] * strips), (284, "H", [layout])),
  ]
  if channels in (2, 4):
    fields.append((338, "H", [2]))  # the last channel is alpha
  fields.append((339, "H", [sample_format] * channels))
  start = 8 + 2 + 12 * len(fields) + 4
  start_of_data = start + sum(len(v) * struct.calcsize(t) for _, t, v in fields if _is_long(t, v))
  entries = long_values = b""
  for tag, code, content in fields:
    if tag == 273:
      content = [start_of_data + offset for offset in content]
    packed = struct.pack(f"{order}{len(content)}{code}", *content)
    entry = struct.pack(f"{order}HHI", tag, 3 if code == "H" else 4, len(content))
    if _is_long(code, content):
      entries += entry + struct.pack(f"{order}I", start + len(long_values))
      long_values += packed
    else:
      entries += entry + packed.ljust(4, b"\0")
  head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(fields))
  return head + entries + struct.pack(f"{order}I", 0) + long_values + data


def _is_long(code, content) -> bool:
  return len(content) * struct.calcsize(code) > 4


def optimize(data: bytes) -> bytes:
  """What lossless optimizers do to a PNG: fewer bits, or a palette of the colours that are there.

  The picture stays the same, which is checked: Pillow sees the same 16-bit greys or RGB colours.
  """
  with Image.open(io.BytesIO(data)) as image:
    mode = image.mode
    pixels = np.array(image if mode.startswith("I;16") else image.convert("RGB"))
  if mode.startswith("I;16") and (pixels % 257).any():
    return data
  if mode.startswith("I;16"):
    pixels = np.repeat((pixels // 257)[..., None], 3, axis=-1)  # [H, W, 3]
  codes = (pixels * np.array([1, 2**8, 2**16])).sum(axis=-1)  # [H, W]
  codes, numbers, counts = np.unique(codes, return_inverse=True, return_counts=True)
  colours = np.stack([codes % 2**8, codes // 2**8 % 2**8, codes // 2**16], axis=-1)  # [n, 3]
  depth = next(d for d in (1, 2, 4, 8) if not (colours % (255 // (2**d - 1))).any())
  if (colours == colours[:, :1]).all() and depth < 8:
    result = png(pixels[..., 0] // (255 // (2**depth - 1)), depth)
  elif len(colours) <= 16:
    order = np.argsort(-counts, kind="stable")  # the most frequent first
    depth = next(d for d in (1, 2, 4) if 2**d >= len(colours))
    result = png(
      np.argsort(order)[numbers].reshape(pixels.shape[:2]), depth, palette=colours[order]
    )
  else:
    return data
  with Image.open(io.BytesIO(result)) as image:
    np.testing.assert_array_equal(np.array(image.convert("RGB")), pixels)
  return result
