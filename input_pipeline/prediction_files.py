"""The files of a prediction: images of any kind in, label maps and their pictures out."""

import collections
import io
import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import ExifTags, Image

from input_pipeline.decode import decode_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


class ImageError(ValueError):
  """An image file cannot be read; the message names it."""


def list_images(source: epath.PathLike) -> list[epath.Path]:
  """Lists what is to be predicted.

  Args:
    source: a folder, whose subfolders and hidden files are left out, or one image file.

  Returns:
    Paths, sorted by name.

  Raises:
    FileNotFoundError: there is no such folder or file, or no image in it.
  """
  source = epath.Path(source).expanduser()
  if source.is_file():
    return [source]
  if not source.is_dir():
    raise FileNotFoundError(f"--input={source} does not exist; give a folder or an image file")
  images = [
    path
    for path in sorted(source.iterdir(), key=lambda path: path.name)
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
  ]
  if not images:
    raise FileNotFoundError(
      f"--input={source} holds no images ({', '.join(IMAGE_SUFFIXES)}; subfolders are not searched)"
    )
  return images


def output_names(image: epath.Path) -> tuple[str, str, str]:
  """File names of an image's label map, overlay and scores."""
  return f"{image.stem}.png", f"{image.stem}_overlay.png", f"{image.stem}.npz"


def check_output(images: Sequence[epath.Path], output: epath.PathLike) -> epath.Path:
  """Makes sure that the output overwrites no input, and no other output.

  Args:
    images: inputs.
    output: folder of the results, which need not exist.

  Returns:
    The folder.

  Raises:
    ValueError: names the files that are in each other's way.
  """
  output = epath.Path(output).expanduser()
  if output.exists() and not output.is_dir():
    raise ValueError(f"--output={output} is a file; give a folder")
  if os.path.realpath(output) in {os.path.realpath(image.parent) for image in images}:
    raise ValueError(
      f"--output={output} is the folder of the input images, which results could overwrite; give"
      " another one"
    )
  makers = collections.defaultdict(list)
  for image in images:
    for name in output_names(image):
      makers[name].append(image.name)
  clashes = {name: of for name, of in makers.items() if len(of) > 1}
  if clashes:
    name, of = next(iter(clashes.items()))
    raise ValueError(
      f"{' and '.join(of)} would both be written to {output / name}; rename one"
      + (f" ({len(clashes)} such names in all)" if len(clashes) > 1 else "")
    )
  return output


def image_size(path: epath.Path) -> tuple[int, int]:
  """(height, width) in pixels of the upright image, from the file's header where it says so.

  Raises:
    ImageError: the file is no image or cannot be read.
  """
  try:
    with path.open("rb") as file, Image.open(file) as image:
      sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
      return (image.width, image.height) if sideways else (image.height, image.width)
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ImageError(f"{path}: not a readable image ({error})") from error


def read_image(path: epath.Path) -> np.ndarray:
  """Reads an image as RGB, turned upright by its EXIF orientation.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ImageError: the file cannot be read or decoded.
  """
  try:
    return decode_image(path.read_bytes(), path.name)  # [H, W, 3]
  except OSError as error:
    raise ImageError(f"{path}: cannot be read ({error})") from error
  except ValueError as error:
    raise ImageError(f"{path}: cannot be decoded ({error.__cause__})") from error


def label_dtype(num_classes: int) -> type[np.unsignedinteger]:
  """The smallest type of a label map: uint8 for up to 256 classes, else uint16."""
  return np.uint8 if num_classes <= 256 else np.uint16


def write_png(path: epath.Path, image: np.ndarray) -> None:
  """Writes uint8 or uint16 [H, W], or uint8 [H, W, 3], replacing what was there."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, format="PNG", compress_level=1)  # a fifth larger, much faster
  path.write_bytes(data.getvalue())


def write_scores(path: epath.Path, scores: np.ndarray) -> None:
  """Writes float32 [C, H, W] as the array `scores` of an .npz, replacing what was there."""
  with path.open("wb") as file:
    np.savez(file, scores=scores)
