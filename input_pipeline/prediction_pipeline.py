"""Batches of images without labels, grouped by the exact shape the model is fed.

As in evaluation, nothing is padded to a common size, and a short batch is filled with dummies.
"""

import collections
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import numpy as np
from etils import epath
from PIL import Image

from input_pipeline import prediction_files
from input_pipeline.prediction_files import ImageError
from input_pipeline.resize import eval_size, resize_image

# Batches decoded ahead of the one handed out.
_PREFETCHED_BATCHES = 1
# A batch holds at most so many pixels of original images, unless one image has more.
_BATCH_PIXELS = 1 << 25


@dataclasses.dataclass(frozen=True)
class PredictionBatch:
  """Images of one input shape.

  Attributes:
    image: uint8 [b, h, w, 3], the model's input; dummies are 0.
    originals: b arrays, uint8 [H_i, W_i, 3]; None for a dummy.
    paths: b files; None for a dummy.
  """

  image: np.ndarray
  originals: list[np.ndarray | None]
  paths: list[epath.Path | None]


def prediction_batches(
  paths: Sequence[epath.Path],
  *,
  batch_size: int,
  multiple: int,
  min_size: int,
  max_size: int,
  failed: Callable[[epath.Path, ImageError], None],
  max_pixels: int | None = None,
) -> Iterator[PredictionBatch]:
  """Yields every readable image once, while threads prepare the next batch.

  Args:
    paths: image files.
    batch_size: largest b wanted.
    multiple: of which every b is one (the number of devices).
    min_size: wanted length of the model input's shorter side in pixels; 0 keeps the native size.
    max_size: limit of its longer side in pixels (not applied to native sizes).
    failed: called with the file and the reason where one cannot be read.
    max_pixels: of an original image; larger ones are refused. None for no limit.
  """
  with futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images") as pool:
    groups = collections.defaultdict(list)
    for path, size in _sizes(paths, pool, max_pixels):
      try:
        shape = eval_size(*size.result(), min_size, max_size)
        _check_input(path, shape, max_size)
        groups[shape].append((size.result(), path))
      except ImageError as error:
        failed(path, error)
    waiting = collections.deque()
    for shape, rows, images in _batches(groups, batch_size, multiple):
      loading = [pool.submit(_load, path, size, shape) for size, path in images]
      waiting.append((shape, rows, [path for _, path in images], loading))
      if len(waiting) > _PREFETCHED_BATCHES:
        yield from _assemble(*waiting.popleft(), failed)
    while waiting:
      yield from _assemble(*waiting.popleft(), failed)


def _sizes(
  paths: Sequence[epath.Path], pool: futures.Executor, max_pixels: int | None
) -> list[tuple[epath.Path, futures.Future]]:
  """Returns (path, size or error) of every image."""
  with warnings.catch_warnings():  # max_pixels is the limit, not Pillow's first one
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    sizes = [(path, pool.submit(prediction_files.image_size, path, max_pixels)) for path in paths]
    futures.wait([size for _, size in sizes])
  return sizes


def _check_input(path: epath.Path, shape: tuple[int, int], max_size: int) -> None:
  """Refuses native sizes that would fill the memory of any device; others never come so far."""
  if shape[0] * shape[1] > max_size**2:
    raise ImageError(
      f"{path}: {shape[1]} x {shape[0]} are too many pixels for a model's input, which"
      f" config.eval.min_size=0 leaves at its native size; more than config.eval.max_size="
      f"{max_size} squared are refused. Give --config.eval.min_size=512, say"
    )


def _batches(groups: dict, batch_size: int, multiple: int) -> Iterator[tuple]:
  """Yields (shape, rows of the batch, [(size, path)]); all batches of a shape have equal rows."""
  # The largest shape first: if memory does not suffice, it shows at once.
  for shape in sorted(groups, key=lambda shape: (-shape[0] * shape[1], shape)):
    images = sorted(groups[shape])  # neighbours are of equal size, so their label maps are too
    largest = max(height * width for (height, width), _ in images)
    rows = min(batch_size, len(images), max(1, _BATCH_PIXELS // largest))
    rows = -(-rows // multiple) * multiple
    for first in range(0, len(images), rows):
      yield shape, rows, images[first : first + rows]


def _load(
  path: epath.Path, size: tuple[int, int], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  original = prediction_files.read_image(path)  # [H, W, 3]
  if original.shape[:2] != size:
    raise ImageError(f"{path}: its header says {size} pixels, it has {original.shape[:2]}")
  return original, resize_image(original, *shape)  # [h, w, 3]


def _assemble(
  shape: tuple[int, int],
  rows: int,
  paths: list[epath.Path],
  loading: list[futures.Future],
  failed: Callable[[epath.Path, ImageError], None],
) -> Iterator[PredictionBatch]:
  """Yields the batch, unless none of its images can be read."""
  batch = PredictionBatch(
    image=np.zeros((rows, *shape, 3), np.uint8),  # [b, h, w, 3]
    originals=[None] * rows,
    paths=[None] * rows,
  )
  for row, (path, future) in enumerate(zip(paths, loading, strict=True)):
    try:
      batch.originals[row], batch.image[row] = future.result()
      batch.paths[row] = path
    except ImageError as error:
      failed(path, error)
  if any(path is not None for path in batch.paths):
    yield batch
