"""Batches of image files without labels."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import inference_batches, prediction_files
from input_pipeline.inference_batches import InferenceBatch, SizedImage
from input_pipeline.prediction_files import ImageError
from input_pipeline.resize import eval_size, resize_image

# Originals may be large: no more of them are held than keep the threads at work.
_BATCHES_AHEAD = 1
# A batch holds at most so many pixels of original images, unless one image has more.
_BATCH_PIXELS = 1 << 25


class ImageFile(NamedTuple):
  """An image file that was read.

  Attributes:
    path: path of the file.
    original: uint8 [H, W, 3], upright.
  """

  path: epath.Path
  original: np.ndarray


def prediction_batches(
  paths: Sequence[epath.Path],
  *,
  batch_size: int,
  multiple: int,
  min_size: int,
  max_size: int,
  failed: Callable[[epath.Path, ImageError], None],
  half_even: bool = False,
  max_pixels: int | None = None,
) -> Iterator[InferenceBatch]:
  """Yields every readable image once, as an `ImageFile`, while threads read the next batch.

  Args:
    paths: image files.
    batch_size: largest b wanted.
    multiple: number that every b is a multiple of (the number of devices).
    min_size: wanted length of the model input's shorter side in pixels; 0 keeps the native size.
    max_size: limit of its longer side in pixels (not applied to native sizes).
    failed: called with the file and the reason where one cannot be read.
    half_even: whether halves of the model input's sides are rounded to the even number, not up.
    max_pixels: limit for an original image; larger ones are refused. None for no limit.
  """
  images = []
  for path, size in _sizes(paths, max_pixels):
    try:
      input_size = eval_size(*size.result(), min_size, max_size, half_even=half_even)
      _check_input(path, input_size, max_size)
      images.append(SizedImage(size.result(), input_size, path))
    except ImageError as error:
      failed(path, error)

  def rows(group: list[SizedImage]) -> int:
    largest = max(height * width for (height, width), *_ in group)
    count = min(batch_size, len(group), max(1, _BATCH_PIXELS // largest))
    return -(-count // multiple) * multiple

  # Sorted, neighbours are of equal size, so their label maps are too.
  plan = inference_batches.plan_batches(sorted(images), rows)
  yield from inference_batches.load_batches(plan, _load, ahead=_BATCHES_AHEAD, failed=failed)


def _sizes(
  paths: Sequence[epath.Path], max_pixels: int | None
) -> list[tuple[epath.Path, futures.Future]]:
  """Returns (path, size or error) of every image."""
  with warnings.catch_warnings():  # max_pixels is the limit, not Pillow's first one
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="image-sizes") as pool:
      return [(path, pool.submit(prediction_files.image_size, path, max_pixels)) for path in paths]


def _check_input(path: epath.Path, shape: tuple[int, int], max_size: int) -> None:
  """Refuses native sizes that would fill the memory of any device; others never come so far."""
  if shape[0] * shape[1] > max_size**2:
    raise ImageError(
      f"{path}: {shape[1]} x {shape[0]} are too many pixels for a model's input, which"
      f" config.eval.min_size=0 leaves at its native size; more than config.eval.max_size="
      f"{max_size} squared are refused. Give --config.eval.min_size=512, say"
    )


def _load(image: SizedImage) -> tuple[np.ndarray, ImageFile]:
  path = image.content
  original = prediction_files.read_image(path)  # [H, W, 3]
  if original.shape[:2] != image.size:
    raise ImageError(f"{path}: its header says {image.size} pixels, it has {original.shape[:2]}")
  return resize_image(original, *image.input_size), ImageFile(path, original)  # [h, w, 3]
