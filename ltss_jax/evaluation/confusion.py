"""Counts of label against prediction over the images of a split."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from absl import logging

from input_pipeline.inference_batches import InferenceBatch
from ltss_jax import mesh as mesh_lib
from ltss_jax.inference import stream
from ltss_jax.inference.predictor import Predictor
from ltss_jax.results import metrics


def confusion_matrix(
  predictor: Predictor,
  params: Any,
  stats: Any,
  batches: Iterable[InferenceBatch],
  *,
  num_classes: int,
  ignore_label: int,
  visit: Callable[[stream.Prediction], None] = lambda one: None,
) -> np.ndarray:
  """Counts label against prediction over the images of all processes.

  Args:
    predictor: predictor on this process's devices.
    params: parameters on the predictor's mesh.
    stats: statistics on the predictor's mesh.
    batches: this process's share of the split, of `LabelledImage`s.
    num_classes: C.
    ignore_label: label of the pixels that are left out.
    visit: called with every image of this process.

  Returns:
    int64 [C, C], rows are labels, columns predictions; the same on every process.
  """
  counts = np.zeros((num_classes, num_classes), np.int64)
  done = 0
  for one in stream.predictions(predictor, params, stats, batches):
    counts += metrics.confusion_matrix(one.image.label, one.label_map, num_classes, ignore_label)
    visit(one)
    done += 1
    logging.log_every_n_seconds(logging.INFO, "evaluated %d images", 10, done)
  logging.info("evaluated %d images with %d compiled shapes", done, predictor.num_compilations)
  return mesh_lib.sum_over_processes(counts)
