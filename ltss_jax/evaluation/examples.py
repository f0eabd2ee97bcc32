"""Predictions of a few validation images, for people to look at."""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from input_pipeline import resize
from ltss_jax import mesh as mesh_lib
from ltss_jax.dataset import Dataset
from ltss_jax.evaluation import validation_split
from ltss_jax.inference import stream
from ltss_jax.inference.predictor import Predictor
from ltss_jax.results import metrics
from ltss_jax.visualization import example_images
from ltss_jax.visualization.example_images import Example

# Bounds of the work: a new input shape is a compilation, which may take a minute.
MAX_IMAGES = 64
MAX_SHAPES = 8


class Examples:
  """Predicts a fixed, bounded choice of the validation images, on this process alone.

  They are spread evenly over the images of the split's most frequent input shapes.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    predictor: Predictor,
    count: int = MAX_IMAGES,
  ):
    """Chooses the images; nothing is read yet.

    Args:
      config: resolved config.
      dataset: data set of the run.
      predictor: predictor on a mesh of this process's devices; that of an evaluation has compiled
        all shapes.
      count: largest number of images.
    """
    self._dataset, self._predictor, self._options = dataset, predictor, config.eval
    self._mesh = mesh_lib.data_mesh(jax.local_devices())
    counts, options = dataset.val_counts, config.eval
    self._indices = choose(
      [
        resize.eval_size(
          int(height),
          int(width),
          options.min_size,
          options.max_size,
          half_even=options.round_half_even,
        )
        for height, width in zip(counts.height, counts.width, strict=True)
      ],
      count,
    )

  def __call__(self, params: Any, stats: Any) -> Iterator[Example]:
    """Yields the examples at their original size.

    Args:
      params: parameters, whole on each of this process's devices.
      stats: statistics, likewise.
    """
    metadata = self._dataset.metadata
    batches = validation_split.batches(
      self._dataset,
      self._options,
      shape_multiple=self._options.shape_multiple,
      only=self._indices,
      on_one_process=True,
    )
    weights = [mesh_lib.local_replica(tree, self._mesh) for tree in (params, stats)]
    for one in stream.predictions(self._predictor, *weights, batches):
      label, prediction = one.image.label, one.label_map
      image = resize.resize_image(one.model_input, *label.shape)
      miou = image_miou(label, prediction, metadata.num_classes, metadata.ignore_label)
      yield Example(one.image.file_name, miou, image, label, prediction)


def choose(shapes: Sequence[tuple[int, int]], count: int) -> list[int]:
  """Chooses images evenly spread over those of the MAX_SHAPES most frequent shapes.

  Args:
    shapes: (height, width) of each image's model input.
    count: largest number of images.

  Returns:
    Ascending indices.
  """
  frequent = {shape for shape, _ in collections.Counter(shapes).most_common(MAX_SHAPES)}
  candidates = [index for index, shape in enumerate(shapes) if shape in frequent]
  picked = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
  return [candidates[i] for i in picked]


def image_miou(
  label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int
) -> float:
  """Mean IoU of one image, over the classes that it shows or is predicted to show.

  Args:
    label: integers [H, W].
    prediction: integers [H, W].
    num_classes: C.
    ignore_label: label of the pixels that are left out.

  Returns:
    A fraction; nan where no pixel is labelled.
  """
  # Numbered anew, as a matrix of all classes would be millions of cells for each image.
  shown = np.union1d(label[label != ignore_label], prediction)
  dense = np.full(max(num_classes, ignore_label) + 1, len(shown))
  dense[shown] = np.arange(len(shown))
  dense[ignore_label] = len(shown)
  confusion = metrics.confusion_matrix(dense[label], dense[prediction], len(shown), len(shown))
  return metrics.segmentation_scores(confusion).miou


def keep(chosen: Examples, params: Any, stats: Any, path: epath.PathLike) -> None:
  """Writes the worst and best of the chosen images, for the report.

  Args:
    chosen: the images.
    params: parameters, whole on each of this process's devices.
    stats: statistics, likewise.
    path: path of the .npz file.
  """
  kept = example_images.worst_and_best(chosen(params, stats))
  example_images.save(kept, path)
  logging.info("The %d worst and best of some images, for the report: %s", len(kept), path)
