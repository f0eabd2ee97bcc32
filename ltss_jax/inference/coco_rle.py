"""Label maps as COCO's run-length JSON, as evaluation servers of published data sets read it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def encode(mask: np.ndarray) -> dict[str, Any]:
  """Encodes one mask.

  Args:
    mask: bool [H, W].

  Returns:
    {"size": [H, W], "counts": str}: COCO's compressed run lengths, column by column, as
    `pycocotools.mask.decode` reads them.
  """
  encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
  return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def label_entries(
  label: np.ndarray, dataset_ids: Sequence[int], file_name: str
) -> list[dict[str, Any]]:
  """The masks of all classes of one label map.

  Args:
    label: integers [H, W], train ids 0 .. C - 1; other values (the ignore label) get no mask.
    dataset_ids: id of each of the C classes in the data set's own numbering.
    file_name: file name of the image.

  Returns:
    One {"file_name", "category_id", "segmentation"} for each class that occurs, in the order of
    the train ids; `segmentation` as of `encode`.
  """
  present = np.flatnonzero(np.bincount(label.ravel(), minlength=1)[: len(dataset_ids)])
  return [
    {
      "file_name": file_name,
      "category_id": int(dataset_ids[train_id]),
      "segmentation": encode(label == train_id),
    }
    for train_id in present
  ]
