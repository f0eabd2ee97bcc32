"""Test batches: every record once, grouped by the exact shape the model is fed.

Padding would change results, so a batch holds images of one input shape only, unless the caller
asks for rounded shapes, and a short batch is filled with dummies that carry no label.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import cv2
import numpy as np

from input_pipeline.decode import decode_image, decode_label
from input_pipeline.pipeline import read_record
from input_pipeline.resize import eval_size, resize_image

# Batches decoded ahead of the one handed out.
_PREFETCHED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class EvalBatch:
  """Images of one input shape with their labels at the original resolution.

  Attributes:
    image: uint8 [b, h, w, 3]; dummies are 0.
    labels: b arrays, uint8 or uint16 [H_i, W_i]; None for a dummy.
    indices: int32 [b], record of each image; -1 for a dummy.
    file_names: b names; "" for a dummy.
    sizes: b (height, width) of the images in `image`, the rest of which is 0: they are equal to its
      own unless shapes are rounded.
  """

  image: np.ndarray
  labels: list[np.ndarray | None]
  indices: np.ndarray
  file_names: list[str]
  sizes: list[tuple[int, int]]


class EvalBatches:
  """Test batches of one process: over all processes, every record exactly once, in a fixed order.

  Args:
    source: random access to records {"image": bytes, "label": bytes, "file_name": str}.
    sizes: (height [N], width [N]) of the labels in pixels, in record order, from the statistics.
    batch_size: images in a batch over all processes; each process's batches hold an equal part b.
    min_size: wanted length of the model input's shorter side in pixels; 0 keeps the native size.
    max_size: limit of its longer side in pixels (not applied to native sizes).
    process_index: p of this process, which gets the records i with i % P == p.
    process_count: P, number of processes; one that gets no record has no batches.
    shape_multiple: images are padded on the right and below to multiples of this, so that fewer
      shapes are compiled; 1: not at all. Padding changes results.
    only: records to read, if not all.
    num_threads: threads that decode and resize; as many as there are cores if None.

  Attributes:
    shapes: distinct input shapes (h, w) of this process, in the order of their batches: the number
      of programs that will be compiled.

  Raises:
    ValueError: if batch_size does not divide over the processes or the sizes are of other files.
  """

  def __init__(
    self,
    source: Any,
    sizes: tuple[np.ndarray, np.ndarray],
    *,
    batch_size: int,
    min_size: int,
    max_size: int,
    process_index: int = 0,
    process_count: int = 1,
    shape_multiple: int = 1,
    only: Sequence[int] | None = None,
    num_threads: int | None = None,
  ):
    heights, widths = sizes
    if not len(heights) == len(widths) == len(source):
      raise ValueError(
        f"{len(heights)} heights and {len(widths)} widths are known of {len(source)} records; "
        "the statistics belong to other files. Prepare the data again."
      )
    if batch_size < 1 or batch_size % process_count:
      raise ValueError(
        f"The evaluation batch_size {batch_size} does not divide over {process_count} processes; "
        "choose a multiple of their number."
      )
    self._source = source
    self._sizes = [(int(height), int(width)) for height, width in zip(heights, widths, strict=True)]
    self._rows = batch_size // process_count
    self._num_threads = num_threads or os.cpu_count() or 1
    self._input_sizes = {}
    groups = collections.defaultdict(list)
    wanted = range(len(source)) if only is None else only
    for index in wanted[process_index::process_count]:
      size = eval_size(*self._sizes[index], min_size, max_size)
      self._input_sizes[index] = size
      groups[tuple(-(-side // shape_multiple) * shape_multiple for side in size)].append(index)
    # The largest shape first: if memory does not suffice, it shows at once.
    self.shapes = sorted(groups, key=lambda shape: (-shape[0] * shape[1], shape))
    self._batches = [
      (shape, groups[shape][first : first + self._rows])
      for shape in self.shapes
      for first in range(0, len(groups[shape]), self._rows)
    ]

  def __len__(self) -> int:
    """Number of batches of this process."""
    return len(self._batches)

  def __iter__(self) -> Iterator[EvalBatch]:
    """Yields the batches while threads prepare the next ones; closing the iterator stops them."""
    cv2.setNumThreads(0)  # One thread an image; OpenCV's own pool would compete with them.
    pool = futures.ThreadPoolExecutor(self._num_threads, thread_name_prefix="eval-images")
    waiting = collections.deque()
    try:
      for shape, indices in self._batches:
        waiting.append((shape, indices, [pool.submit(self._load, i) for i in indices]))
        if len(waiting) > _PREFETCHED_BATCHES:
          yield self._assemble(*waiting.popleft())
      while waiting:
        yield self._assemble(*waiting.popleft())
    finally:
      pool.shutdown(cancel_futures=True)

  def _load(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    record = read_record(self._source, index)
    name = record["file_name"]
    image = decode_image(record["image"], name)  # [H, W, 3]
    label = decode_label(record["label"], name)  # [H, W]
    if not image.shape[:2] == label.shape == self._sizes[index]:
      raise ValueError(
        f"{name}: the image has size {image.shape[:2]}, its label {label.shape} and the statistics "
        f"say {self._sizes[index]} (height, width); they must be equal. Prepare the data again."
      )
    return resize_image(image, *self._input_sizes[index]), label, name  # [h, w, 3], [H, W]

  def _assemble(
    self, shape: tuple[int, int], indices: list[int], loading: Sequence[futures.Future]
  ) -> EvalBatch:
    dummies = self._rows - len(indices)
    batch = EvalBatch(
      image=np.zeros((self._rows, *shape, 3), np.uint8),  # [b, h, w, 3]
      labels=[None] * self._rows,
      indices=np.array([*indices, *[-1] * dummies], np.int32),
      file_names=[""] * self._rows,
      sizes=[*(self._input_sizes[index] for index in indices), *[shape] * dummies],
    )
    for row, future in enumerate(loading):
      height, width = batch.sizes[row]
      image, batch.labels[row], batch.file_names[row] = future.result()
      batch.image[row, :height, :width] = image
    return batch
