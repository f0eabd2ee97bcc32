"""Raw trees of the published data sets, of real files, and what is read back from them."""

import io
import types

import numpy as np
import pytest
from PIL import Image, ImageFile


def _jpeg(path, height, width, seed=0, **options):
  """Writes a smooth random JPEG and returns its bytes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  image.save(path, "JPEG", **options)
  return path.read_bytes()


def _png(path, values):
  """Writes values uint8 or uint16 [H, W] or uint8 [H, W, 3] as a PNG and returns its bytes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(values).save(path, "PNG")
  return path.read_bytes()


def _decode(data):
  with Image.open(io.BytesIO(data)) as image:
    return np.array(image)


def _decode_truncated(data):
  """What PIL makes of a JPEG that ends too early, where it is told to accept such."""
  ImageFile.LOAD_TRUNCATED_IMAGES = True
  try:
    return _decode(data)
  finally:
    ImageFile.LOAD_TRUNCATED_IMAGES = False


@pytest.fixture(scope="session")
def raw_files():
  """Functions that write and decode raw files."""
  return types.SimpleNamespace(
    jpeg=_jpeg, png=_png, decode=_decode, decode_truncated=_decode_truncated
  )
