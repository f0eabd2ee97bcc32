"""The files of a prediction: images of any kind in, label maps and their pictures out."""

import collections
import contextlib
import io
import itertools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image, UnidentifiedImageError

from input_pipeline import deep_images, file_access
from input_pipeline.decode import decode_image, upright_size
from input_pipeline.file_access import IMAGE_SUFFIXES

_MOST_COUNTED = 1000  # images in subfolders, which are not predicted
_PATTERN = re.compile(r"[*?[]")
SUMMARY_FILE, RUN_LENGTH_FILE = "summary.json", "predictions.json"


class ImageError(ValueError):
  """An image file cannot be read; the message names it."""


def list_images(source: epath.PathLike, output: epath.PathLike | None = None) -> list[epath.Path]:
  """Lists what is to be predicted; says how many images lie in the folders of a folder.

  Args:
    source: a folder, whose subfolders and hidden files are left out; one image file; or a pattern
      of files, such as photos/2024-*/*.jpg, where ** stands for any depth of folders.
    output: folder of the results, which are not counted.

  Returns:
    Paths, sorted by name. What cannot be read is found out when it is.

  Raises:
    FileNotFoundError: there is no such folder or file, or no image in it.
    file_access.FileError: it is neither folder nor file, or may not be read.
  """
  source = epath.Path(source).expanduser()
  if source.is_dir():
    return _images_of(source, output)
  if file_access.exists(source):
    if why := file_access.problem(source):
      raise file_access.FileError(
        f"--input={file_access.printable(source)}: {why}; give a folder, an image file or a pattern"
        " such as *.jpg"
      )
    return [source]
  name = file_access.printable(source)
  if not _PATTERN.search(str(source)):
    raise FileNotFoundError(
      f"--input={name} does not exist; give a folder, an image file or a pattern such as *.jpg"
    )
  images = _images_among(_glob(source))
  if not images:
    raise FileNotFoundError(f"--input={name} matches no images ({', '.join(IMAGE_SUFFIXES)})")
  return images


def _images_of(folder: epath.Path, output: epath.PathLike | None) -> list[epath.Path]:
  images = _images_among(file_access.entries(folder))
  name = file_access.printable(folder)
  below = _count_below(folder, output)
  where = f"{below} in its subfolders, which --input='{name}/**/*' takes too" if below else ""
  if not images:
    raise FileNotFoundError(
      f"--input={name} holds no images ({', '.join(IMAGE_SUFFIXES)})"
      + (f"; there are {where}" if below else ", nor do its subfolders")
    )
  if below:
    logging.warning("--input=%s: %d images, without %s", name, len(images), where)
  return images


def _count_below(folder: epath.Path, output: epath.PathLike | None) -> str:
  """How many images lie in subfolders other than that of the results; "" for none."""
  count = sum(1 for _ in itertools.islice(_below(folder, output), _MOST_COUNTED + 1))
  return f"more than {_MOST_COUNTED:,}" if count > _MOST_COUNTED else str(count or "")


def _below(folder: epath.Path, output: epath.PathLike | None) -> Iterator[epath.Path]:
  if "://" in str(folder):  # where looking costs time and money
    return
  results = None if output is None else os.path.realpath(os.path.expanduser(output))
  for path in file_access.entries(folder):
    if path.suffix.lower() in IMAGE_SUFFIXES or not os.path.isdir(path):
      continue
    if os.path.realpath(path) != results:
      with contextlib.suppress(file_access.FileError):  # what cannot be listed is not asked for
        yield from file_access.walk(path, IMAGE_SUFFIXES)


def _images_among(paths: Iterable[epath.Path]) -> list[epath.Path]:
  images = (
    path
    for path in paths
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
  )
  return sorted(images, key=lambda path: (path.name, str(path)))


def _glob(pattern: epath.Path) -> Iterable[epath.Path]:
  """The paths that a pattern matches, from its last folder without wildcards on."""
  parts = pattern.parts
  first = next(i for i, part in enumerate(parts) if _PATTERN.search(part))
  folder, rest = epath.Path(*parts[:first]), "/".join(parts[first:])
  if not folder.is_dir():
    return ()
  if "**" in rest and "://" not in str(folder):  # which etils refuses everywhere
    return map(epath.Path, pathlib.Path(folder).glob(rest))
  return folder.glob(rest)


def output_names(image: epath.Path) -> tuple[str, str, str]:
  """File names of an image's label map, overlay and scores."""
  return f"{image.stem}.png", f"{image.stem}_overlay.png", f"{image.stem}.npz"


def part_name(name: str, index: int, count: int) -> str:
  """Name of the file of process `index` of `count`: "summary-1-of-4.json"; of one alone, `name`."""
  path = pathlib.PurePath(name)
  return name if count == 1 else f"{path.stem}-{index}-of-{count}{path.suffix}"


def check_output(images: Sequence[epath.Path], output: epath.PathLike) -> epath.Path:
  """Makes sure that the output can be written and overwrites no input, and no other output.

  Args:
    images: inputs.
    output: folder of the results, which need not exist.

  Returns:
    The folder.

  Raises:
    ValueError: names the files that are in each other's way, or says why none can be written.
  """
  output = epath.Path(output).expanduser()
  check_writable(output)
  if os.path.realpath(output) in {os.path.realpath(image.parent) for image in images}:
    raise ValueError(
      f"--output={output} is the folder of the input images, which results could overwrite; give"
      " another one"
    )
  makers = collections.defaultdict(list)
  for image in images:
    for name in output_names(image):
      makers[name].append(str(image))
  clashes = [(name, of) for name, of in makers.items() if len(of) > 1]
  if clashes:
    name, of = clashes[0]
    more = len({tuple(of) for _, of in clashes}) - 1
    raise ValueError(
      f"{' and '.join(of)} would both be written to {output / name}; rename one"
      + (f" (and likewise in {more} more cases)" if more else "")
    )
  return output


def check_writable(output: epath.Path) -> None:
  """Tries to make a file in a folder, or in the one that it would be made in.

  Raises:
    ValueError: that does not work, or the output is a file.
  """
  if output.exists() and not output.is_dir():
    raise ValueError(f"--output={output} is a file; give a folder")
  if "://" in str(output):  # Remote stores have no such test that costs nothing.
    return
  folder = output
  while not folder.exists():
    folder = folder.parent
  try:
    with tempfile.TemporaryFile(dir=os.fspath(folder)):
      pass
  except OSError as error:
    raise ValueError(
      f"--output={output} cannot be written ({folder}: {error.strerror}); give a folder that you"
      " may write to"
    ) from error


def check_size(name: str, height: int, width: int, max_pixels: int) -> None:
  """Refuses images of too many pixels.

  Args:
    name: name of the image, for the message.
    height: image height in pixels.
    width: image width in pixels.
    max_pixels: `config.predict.max_pixels`.

  Raises:
    ImageError: it has more.
  """
  if height * width > max_pixels:
    raise ImageError(
      f"{name}: {width} x {height} are {height * width:,} pixels, more than"
      f" config.predict.max_pixels={max_pixels:,}; make it smaller, cut it up, or raise the limit,"
      " at some 30 bytes of memory a pixel"
    )


def image_size(path: epath.Path, max_pixels: int | None = None) -> tuple[int, int]:
  """(height, width) in pixels of the upright image, from the file's header where it says so.

  Args:
    path: the image file.
    max_pixels: images of more are refused; None for no limit but Pillow's own.

  Raises:
    ImageError: the file is no image, cannot be read or is too large.
  """
  name = file_access.printable(path)
  if why := file_access.problem(path):
    raise ImageError(f"{name}: not a readable image ({why})")
  try:
    with path.open("rb") as file, Image.open(file) as image:
      size = upright_size(image)
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise ImageError(f"{name}: too large to be read safely ({error}); make it smaller") from error
  except Exception as error:  # Pillow's decoders raise a dozen unrelated types on bad bytes.
    raise ImageError(f"{name}: not a readable image ({_reason(path, error)})") from error
  if max_pixels is not None:
    check_size(name, *size, max_pixels)
  return size


def _reason(path: epath.Path, error: Exception) -> str:
  if not isinstance(error, UnidentifiedImageError):
    return str(error)
  try:
    data = file_access.read_bytes(path)
  except file_access.FileError as gone:
    return str(gone)
  if not data:
    return "the file is empty"
  return deep_images.unknown_layout(data) or "no image of a known kind"


def read_image(path: epath.Path) -> np.ndarray:
  """Reads an image as RGB, turned upright by its EXIF orientation.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ImageError: the file cannot be read or decoded.
  """
  name = file_access.printable(path)
  try:
    return decode_image(file_access.read_bytes(path), name)  # [H, W, 3]
  except file_access.FileError as error:
    raise ImageError(str(error)) from error
  except ValueError as error:
    raise ImageError(f"{name}: cannot be decoded ({error.__cause__})") from error


def label_dtype(num_classes: int) -> type[np.unsignedinteger]:
  """The smallest type of a label map: uint8 for up to 256 classes, else uint16."""
  return np.uint8 if num_classes <= 256 else np.uint16


def write_png(path: epath.Path, image: np.ndarray) -> None:
  """Writes uint8 or uint16 [H, W], or uint8 [H, W, 3], replacing what was there."""
  data = io.BytesIO()
  Image.fromarray(image).save(data, format="PNG", compress_level=1)  # a fifth larger, much faster
  path.write_bytes(data.getvalue())


class JsonListWriter:
  """A JSON list that grows entry by entry and appears, complete, when it is closed.

  All but ASCII is escaped, so that names of files may hold bytes that are no UTF-8.

  Args:
    path: the file; an earlier one is replaced.
  """

  def __init__(self, path: epath.Path):
    self._path, self._unfinished = path, path.with_name(f"{path.name}.unfinished")
    self._file = self._unfinished.open("w")
    self._separator = "["

  def write(self, entry: Any) -> None:
    """Appends one entry, on a line of its own."""
    self._file.write(f"{self._separator}\n{json.dumps(entry)}")
    self._separator = ","

  def close(self) -> None:
    """Ends the list and puts the file in its place."""
    self._file.write("[]\n" if self._separator == "[" else "\n]\n")
    self._file.close()
    self._unfinished.replace(self._path)


def write_scores(path: epath.Path, scores: np.ndarray) -> None:
  """Writes float32 [C, H, W] as the array `scores` of an .npz, replacing what was there."""
  with path.open("wb") as file:
    np.savez(file, scores=scores)
