"""Counts of label against prediction over the images of a split."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from input_pipeline import eval_pipeline
from ltss_jax import mesh as mesh_lib
from ltss_jax.inference.predictor import Predictor
from ltss_jax.results import metrics


class PredictedLabel(NamedTuple):
  """The prediction for one image, with what it is compared with.

  Attributes:
    index: record of the image.
    file_name: of the image.
    label: integers [H, W].
    prediction: uint16 [H, W].
  """

  index: int
  file_name: str
  label: np.ndarray
  prediction: np.ndarray


def predicted_labels(
  predictor: Predictor, params: Any, stats: Any, batches: Iterable[eval_pipeline.EvalBatch]
) -> Iterator[PredictedLabel]:
  """Predicts every image of the batches; the device works on one while the last is handed out.

  Args:
    predictor: of this process.
    params: on the predictor's mesh.
    stats: likewise.
    batches: this process's share of the split.
  """
  pending = None
  for batch in batches:
    own = batch.image.shape[1:3]
    sizes = [own if label is None else label.shape for label in batch.labels]
    predicted = predictor(params, stats, batch.image, sizes, batch.sizes)
    if pending is not None:
      yield from _rows(*pending)
    pending = (batch, predicted)
  if pending is not None:
    yield from _rows(*pending)


def _rows(batch: eval_pipeline.EvalBatch, predicted: jax.Array) -> Iterator[PredictedLabel]:
  predicted = np.asarray(predicted)
  for row, label in enumerate(batch.labels):
    if label is not None:  # else a dummy that fills a short batch
      height, width = label.shape
      prediction = predicted[row, :height, :width]
      yield PredictedLabel(int(batch.indices[row]), batch.file_names[row], label, prediction)


def confusion_matrix(
  predictor: Predictor,
  params: Any,
  stats: Any,
  batches: Iterable[eval_pipeline.EvalBatch],
  *,
  num_classes: int,
  ignore_label: int,
  visit: Callable[[PredictedLabel], None] = lambda predicted: None,
) -> np.ndarray:
  """Counts label against prediction over the images of all processes.

  Args:
    predictor: of this process.
    params: on the predictor's mesh.
    stats: likewise.
    batches: this process's share of the split.
    num_classes: C.
    ignore_label: pixels with it are left out.
    visit: called with every image of this process.

  Returns:
    int64 [C, C], rows are labels, columns predictions; the same on every process.
  """
  counts = np.zeros((num_classes, num_classes), np.int64)
  done = 0
  for one in predicted_labels(predictor, params, stats, batches):
    counts += metrics.confusion_matrix(one.label, one.prediction, num_classes, ignore_label)
    visit(one)
    done += 1
    logging.log_every_n_seconds(logging.INFO, "evaluated %d images", 10, done)
  logging.info("evaluated %d images with %d compiled shapes", done, predictor.num_compilations)
  return mesh_lib.sum_over_processes(counts)
