"""Batches of images for inference, grouped by the exact shape that the model is fed.

Padding would change results, so a batch holds images of one input shape only, unless the caller
asks for rounded shapes, and a short batch is filled with dummies.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.prediction_files import ImageError
from input_pipeline.resize import eval_size, resize_image

Size = tuple[int, int]  # height, width in pixels


class SizedImage(NamedTuple):
  """An image whose size is known before it is read.

  Attributes:
    size: size of the image itself, and of its label map.
    input_size: size of the model's input.
    content: place where its source finds it; in a batch, the content that was read.
  """

  size: Size
  input_size: Size
  content: Any


class PlannedBatch(NamedTuple):
  """A batch before it is read.

  Attributes:
    shape: height and width of the model's input.
    rows: b, number of images and dummies.
    images: at most b.
  """

  shape: Size
  rows: int
  images: list[SizedImage]


@dataclasses.dataclass(frozen=True)
class InferenceBatch:
  """Images of one input shape.

  Attributes:
    image: uint8 [b, h, w, 3], the model's input; 0 in dummies, and to the right of and below an
      image that is smaller.
    rows: the b images; None for a dummy.
  """

  image: np.ndarray
  rows: list[SizedImage | None]

  @property
  def input_sizes(self) -> list[Size]:
    """The part of `image` that each of the b images fills; a dummy fills all."""
    shape = self.image.shape[1:3]
    return [shape if row is None else row.input_size for row in self.rows]


def plan_batches(
  images: Iterable[SizedImage],
  rows: Callable[[list[SizedImage]], int],
  shape_multiple: int = 1,
) -> list[PlannedBatch]:
  """Groups images by the shape of the model's input, the largest first.

  Args:
    images: images, in the order that those of one shape keep.
    rows: number of rows of the batches of one shape, from all of its images.
    shape_multiple: number that the sides of every shape are multiples of.
  """
  groups = collections.defaultdict(list)
  for image in images:
    shape = tuple(-(-side // shape_multiple) * shape_multiple for side in image.input_size)
    groups[shape].append(image)
  plan = []
  # The largest shape first: if memory does not suffice, it shows at once.
  for shape in sorted(groups, key=lambda shape: (-shape[0] * shape[1], shape)):
    group = groups[shape]
    count = rows(group)
    plan += [
      PlannedBatch(shape, count, group[first : first + count])
      for first in range(0, len(group), count)
    ]
  return plan


def _raise(content: Any, error: ImageError) -> None:
  raise error


def load_batches(
  plan: Sequence[PlannedBatch],
  load: Callable[[SizedImage], tuple[np.ndarray, Any]],
  *,
  ahead: int,
  failed: Callable[[Any, ImageError], None] = _raise,
) -> Iterator[InferenceBatch]:
  """Yields the batches while threads read the next ones; closing the iterator stops them.

  Args:
    plan: the batches.
    load: reads an image: its pixels as the model's input, uint8 [h, w, 3], and its content.
    ahead: batches that are read ahead of the one handed out.
    failed: called with the planned content and the reason where an image cannot be read, which then
      is a dummy; a batch without images is left out.
  """
  pool = futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images")
  waiting = collections.deque()
  try:
    for planned in plan:
      waiting.append((planned, [pool.submit(load, image) for image in planned.images]))
      if len(waiting) > ahead:
        yield from _assembled(*waiting.popleft(), failed)
    while waiting:
      yield from _assembled(*waiting.popleft(), failed)
  finally:
    pool.shutdown(cancel_futures=True)


def _assembled(
  planned: PlannedBatch,
  loading: Sequence[futures.Future],
  failed: Callable[[Any, ImageError], None],
) -> list[InferenceBatch]:
  """The batch, unless none of its images can be read."""
  batch = InferenceBatch(
    image=np.zeros((planned.rows, *planned.shape, 3), np.uint8),  # [b, h, w, 3]
    rows=[None] * planned.rows,
  )
  for row, (image, future) in enumerate(zip(planned.images, loading, strict=True)):
    try:
      pixels, content = future.result()
    except ImageError as error:
      failed(image.content, error)
      continue
    height, width = image.input_size
    batch.image[row, :height, :width] = pixels
    batch.rows[row] = image._replace(content=content)
  return [batch] if any(batch.rows) else []


def single_batch(
  image: np.ndarray, min_size: int, max_size: int, *, half_even: bool = False
) -> InferenceBatch:
  """The batch of one image, which is its content too.

  Args:
    image: uint8 [H, W, 3].
    min_size: wanted length of the model input's shorter side in pixels; 0 keeps the native size.
    max_size: limit of its longer side in pixels (not applied to native sizes).
    half_even: whether halves of its sides are rounded to the even number, not up.
  """
  size = image.shape[:2]
  shape = eval_size(*size, min_size, max_size, half_even=half_even)
  row = SizedImage(size, shape, image)
  return InferenceBatch(resize_image(image, *shape)[None], [row])
