"""From batches of images to label maps, each at its own size: the one way that all images go."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from input_pipeline.inference_batches import InferenceBatch, Size
from ltss_jax.inference.predictor import Predictor


class Prediction(NamedTuple):
  """The prediction for one image.

  Attributes:
    image: content of the image in its batch.
    model_input: uint8 [h, w, 3], the image at the size that the model was given.
    label_map: integers [H, W].
    scores: float32 [C, H, W], which the label map is the argmax of; None unless wanted.
  """

  image: Any
  model_input: np.ndarray
  label_map: np.ndarray
  scores: np.ndarray | None = None


def predictions(
  predictor: Predictor,
  params: Any,
  stats: Any,
  batches: Iterable[InferenceBatch],
  *,
  with_scores: bool = False,
) -> Iterator[Prediction]:
  """Predicts every image of the batches; the device works on one while the last is handed out.

  Args:
    predictor: predictor on this process's devices.
    params: parameters on the predictor's mesh.
    stats: statistics on the predictor's mesh.
    batches: this process's share of the images.
    with_scores: whether to give scores too. They fill the host's memory, so that only those of one
      batch are held.
  """
  pending = None
  for batch in batches:
    if with_scores:
      sizes = _label_sizes(batch, dummy=(1, 1))
      yield from _scored(
        batch, predictor.scores(params, stats, batch.image, sizes, batch.input_sizes)
      )
      continue
    # A dummy keeps its size, so that labels of the input's size need no resizing.
    sizes = _label_sizes(batch, dummy=batch.image.shape[1:3])
    label_maps = predictor(params, stats, batch.image, sizes, batch.input_sizes)
    if pending is not None:
      yield from _labelled(*pending)
    pending = batch, label_maps
  if pending is not None:
    yield from _labelled(*pending)


def _label_sizes(batch: InferenceBatch, dummy: Size) -> list[Size]:
  return [dummy if image is None else image.size for image in batch.rows]


def _labelled(batch: InferenceBatch, label_maps: jax.Array) -> Iterator[Prediction]:
  label_maps = np.asarray(label_maps)
  for row, content, model_input, (height, width) in _images(batch):
    yield Prediction(content, model_input, label_maps[row, :height, :width])


def _scored(batch: InferenceBatch, scores: list[np.ndarray]) -> Iterator[Prediction]:
  for row, content, model_input, _ in _images(batch):
    yield Prediction(content, model_input, scores[row].argmax(0), scores[row])


def _images(batch: InferenceBatch) -> Iterator[tuple[int, Any, np.ndarray, Size]]:
  """Yields (row, content, model input [h, w, 3], size of the label map) of all but dummies."""
  for row, image in enumerate(batch.rows):
    if image is not None:
      height, width = image.input_size
      yield row, image.content, batch.image[row, :height, :width], image.size
