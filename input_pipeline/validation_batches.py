"""Batches of the validation images with their labels: every record once."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from input_pipeline import inference_batches
from input_pipeline.decode import decode_image, decode_label
from input_pipeline.inference_batches import InferenceBatch, SizedImage
from input_pipeline.pipeline import read_record
from input_pipeline.resize import eval_size, resize_image

_BATCHES_AHEAD = 2


class LabelledImage(NamedTuple):
  """A record, without the image.

  Attributes:
    index: index of the record.
    file_name: name of the image.
    label: uint8 or uint16 [H, W], at the original resolution.
  """

  index: int
  file_name: str
  label: np.ndarray


class ValidationBatches:
  """Batches of one process: over all processes, every record exactly once, in a fixed order.

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
    half_even: whether halves of the model input's sides are rounded to the even number, not up.
    only: records to read, if not all.

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
    half_even: bool = False,
    only: Sequence[int] | None = None,
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
    images = []
    wanted = range(len(source)) if only is None else only
    for index in wanted[process_index::process_count]:
      size = int(heights[index]), int(widths[index])
      input_size = eval_size(*size, min_size, max_size, half_even=half_even)
      images.append(SizedImage(size, input_size, index))
    rows = batch_size // process_count
    self._plan = inference_batches.plan_batches(images, lambda group: rows, shape_multiple)

  @property
  def shapes(self) -> list[tuple[int, int]]:
    """Distinct input shapes (h, w) of this process, in the order of their batches.

    As many programs will be compiled.
    """
    return list(dict.fromkeys(planned.shape for planned in self._plan))

  def __iter__(self) -> Iterator[InferenceBatch]:
    """Yields the batches, whose images are `LabelledImage`s, while threads read the next ones."""
    cv2.setNumThreads(0)  # One thread an image; OpenCV's own pool would compete with them.
    return inference_batches.load_batches(self._plan, self._load, ahead=_BATCHES_AHEAD)

  def _load(self, image: SizedImage) -> tuple[np.ndarray, LabelledImage]:
    record = read_record(self._source, image.content)
    name = record["file_name"]
    pixels = decode_image(record["image"], name)  # [H, W, 3]
    label = decode_label(record["label"], name)  # [H, W]
    if not pixels.shape[:2] == label.shape == image.size:
      raise ValueError(
        f"{name}: the image has size {pixels.shape[:2]}, its label {label.shape} and the statistics"
        f" say {image.size} (height, width); they must be equal. Prepare the data again."
      )
    pixels = resize_image(pixels, *image.input_size)  # [h, w, 3]
    return pixels, LabelledImage(image.content, name, label)
