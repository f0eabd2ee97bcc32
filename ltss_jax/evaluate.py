"""Evaluation: every image once, at its own label resolution, on this process's own devices."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from input_pipeline import eval_pipeline
from ltss_jax import (
  architectures,
  mesh as mesh_lib,
  metrics,
  resize_labels,
  views as views_lib,
)
from ltss_jax.views import Size, View


def local_replica(tree: Any, mesh: Mesh) -> Any:
  """The process's own copies of replicated global arrays, as arrays on its local mesh."""
  sharding = mesh_lib.replicated(mesh)

  def local(x: jax.Array) -> jax.Array:
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

  return jax.tree.map(local, tree)


class Predictor:
  """Label maps of image batches; compiles once per (input shapes, padded label shape)."""

  def __init__(
    self,
    architecture: architectures.Architecture,
    mesh: Mesh,
    options: views_lib.ViewOptions | None = None,
  ):
    """Sets up.

    Args:
      architecture: the model.
      mesh: of this process's own devices; the batch is split over it.
      options: the views whose scores are averaged; None: of the images as they are.
    """
    self._architecture, self._mesh = architecture, mesh
    self._options = options or views_lib.PLAIN
    self._shapes: set[tuple] = set()
    batch, replicated = mesh_lib.batch_sharding(mesh).spec, mesh_lib.replicated(mesh).spec

    def per_device(function: Callable) -> Callable:
      in_specs = (replicated, replicated, batch)
      return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=batch))

    self._predict = per_device(self._networks)
    self._label = per_device(self._labels)
    self._class_block = jax.jit(self._scores_of_block, static_argnums=(2, 3))

  @property
  def num_compilations(self) -> int:
    """Distinct shapes seen so far."""
    return len(self._shapes)

  def __call__(
    self,
    params: Any,
    stats: Any,
    image: np.ndarray,
    sizes: Sequence[Size],
    input_sizes: Sequence[Size] | None = None,
  ) -> jax.Array:
    """Predicts.

    Args:
      params: on the predictor's mesh.
      stats: likewise.
      image: uint8 [B, h, w, 3], B a multiple of the number of devices.
      sizes: (height, width) of each of the B label maps.
      input_sizes: (height, width) of each of the B images, from the top left corner of `image`;
        the rest of it is padding. None: they fill it.

    Returns:
      uint16 [B, H, W], H and W at least the largest height and width; what lies to the right of
      and below an image's own size means nothing.
    """
    views = self._views(image, sizes, input_sizes)
    return self._label(params, stats, self._put(views))

  def scores(
    self,
    params: Any,
    stats: Any,
    image: np.ndarray,
    sizes: Sequence[Size],
    input_sizes: Sequence[Size] | None = None,
  ) -> list[np.ndarray]:
    """The scores that the labels are the argmax of.

    Args:
      params: on the predictor's mesh.
      stats: likewise.
      image: uint8 [B, h, w, 3], B a multiple of the number of devices.
      sizes: (height, width) of each of the B score maps.
      input_sizes: as for label maps.

    Returns:
      Per image float32 [C, height, width] in host memory; devices hold a block of classes at a
      time.
    """
    views = self._views(image, sizes, input_sizes, always_resize=True)
    predictions = jax.device_get(self._predict(params, stats, self._put(views)))
    num_classes = self._architecture.num_classes
    count = resize_labels.classes_per_block(num_classes, _num_pixels(views) * len(views))
    shapes = tuple(view.image.shape[1:3] for view in views)
    of_images = [(p, view.taps) for p, view in zip(predictions, views, strict=True)]
    results = []
    for row, (height, width) in enumerate(sizes):
      of_image = jax.tree.map(lambda x, row=row: x[row], of_images)
      scores = np.empty((num_classes, height, width), np.float32)
      for start in range(0, num_classes, count):
        start = min(start, num_classes - count)
        block = self._class_block(of_image, start, shapes, count)
        scores[start : start + count] = np.asarray(block)[:height, :width].transpose(2, 0, 1)
      results.append(scores)
    return results

  def _views(self, image, sizes, input_sizes, always_resize=False) -> list[View]:
    input_sizes = input_sizes or [image.shape[1:3]] * len(image)
    views = views_lib.make_views(
      self._options, image, input_sizes, sizes, always_resize=always_resize
    )
    key = jax.tree.map(np.shape, views)
    self._shapes.add(tuple(jax.tree.leaves(key)))
    return views

  def _put(self, tree: Any) -> Any:
    return jax.device_put(tree, mesh_lib.batch_sharding(self._mesh))

  def _networks(self, params: Any, stats: Any, views: list[View]) -> list[Any]:
    """The network's prediction of every view."""
    inputs = [_network_input(view) for view in views]
    return [self._architecture.predict(params, stats, image) for image in inputs]

  def _labels(self, params: Any, stats: Any, views: list[View]) -> jax.Array:
    """Label maps of one device's images, as many at a time as memory is meant to hold."""
    num_classes, pixels = self._architecture.num_classes, _num_pixels(views)
    shapes = [view.image.shape[1:3] for view in views]
    predictions = self._networks(params, stats, views)

    def label(of_image):
      return resize_labels.argmax_of_mean(self._maps(of_image, shapes), num_classes, pixels)

    group = resize_labels.images_per_block(num_classes, pixels * len(views))
    of_images = [(p, view.taps) for p, view in zip(predictions, views, strict=True)]
    return jax.lax.map(label, of_images, batch_size=group)

  def _scores_of_block(self, of_image, start, shapes, count) -> jax.Array:
    return resize_labels.mean_block(self._maps(of_image, shapes), start, count)

  def _maps(self, of_image, shapes: Sequence[Size]) -> list[resize_labels.ScoreMap]:
    """Score maps of one image from (prediction, taps) of each of its views."""
    order = views_lib.class_order(self._options, self._architecture.num_classes)
    maps = []
    for index, ((prediction, taps), shape) in enumerate(zip(of_image, shapes, strict=True)):
      blocks = self._architecture.score_blocks(prediction, shape)
      if views_lib.is_mirrored(self._options, index) and self._options.flip_pairs:
        blocks = resize_labels.reordered(blocks, order)
      maps.append((blocks, taps))
    return maps


def _network_input(view: View) -> jax.Array:
  """The normalised image; what is padding becomes 0, as where a model pads by itself."""
  image = architectures.normalize(view.image)
  if view.extent is None:
    return image
  rows, columns = (jnp.arange(side) for side in image.shape[1:3])
  height, width = view.extent[:, 0, None, None], view.extent[:, 1, None, None]
  inside = (rows[:, None] < height) & (columns < width)  # [B, h, w]
  return jnp.where(inside[..., None], image, 0)


def _num_pixels(views: list[View]) -> int:
  """Pixels of the largest view of one image or of its label map, whichever are more."""
  inputs = [view.image.shape[1] * view.image.shape[2] for view in views]
  outputs = [low.shape[1] for view in views if view.taps for low, _ in view.taps]
  return max(*inputs, math.prod(outputs[:2]))


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
  return sum_over_processes(counts)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Adds int64 arrays of all processes exactly (devices hold no int64, so the halves travel)."""
  if jax.process_count() == 1:
    return counts
  halves = np.ascontiguousarray(counts).view(np.uint32)
  gathered = np.asarray(multihost_utils.process_allgather(halves))  # [P, C, 2 C]
  return np.ascontiguousarray(gathered).view(np.int64).sum(0)


def gather_bytes(own: bytes) -> list[bytes]:
  """What every process has to say, in their order, on every process."""
  if jax.process_count() == 1:
    return [own]
  lengths = sum_over_processes(
    np.eye(jax.process_count(), dtype=np.int64)[[jax.process_index()]] * len(own)
  )[0]
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(own)] = np.frombuffer(own, np.uint8)
  gathered = np.asarray(multihost_utils.process_allgather(padded))  # [P, longest]
  return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]
