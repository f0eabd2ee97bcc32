"""Evaluation: every image once, at its own label resolution, on this process's own devices."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from input_pipeline import eval_pipeline
from ltss_jax import architectures, mesh as mesh_lib, metrics, resize_labels

# Label sizes are padded to multiples of this, so that photographs of many sizes share a program.
_LABEL_MULTIPLE = 128


def local_replica(tree: Any, mesh: Mesh) -> Any:
  """The process's own copies of replicated global arrays, as arrays on its local mesh."""
  sharding = mesh_lib.replicated(mesh)

  def local(x: jax.Array) -> jax.Array:
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

  return jax.tree.map(local, tree)


class Predictor:
  """Label maps of image batches; compiles once per (input shape, padded label shape)."""

  def __init__(self, architecture: architectures.Architecture, mesh: Mesh):
    """Sets up.

    Args:
      architecture: the model.
      mesh: of this process's own devices; the batch is split over it.
    """
    self._architecture, self._mesh = architecture, mesh
    self._shapes: set[tuple[int, ...]] = set()
    batch, replicated = mesh_lib.batch_sharding(mesh).spec, mesh_lib.replicated(mesh).spec

    def per_device(function: Callable, *in_specs: PartitionSpec) -> Callable:
      return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=batch))

    weights = (replicated, replicated)
    self._predict = per_device(self._network, *weights, batch)
    self._same_size = per_device(self._labels, *weights, batch)
    self._resized = per_device(self._labels, *weights, batch, batch)
    self._class_block = jax.jit(self._scores_of_block, static_argnums=(2, 3))

  @property
  def num_compilations(self) -> int:
    """Distinct shapes seen so far."""
    return len(self._shapes)

  def __call__(
    self, params: Any, stats: Any, image: np.ndarray, sizes: Sequence[tuple[int, int]]
  ) -> jax.Array:
    """Predicts.

    Args:
      params: on the predictor's mesh.
      stats: likewise.
      image: uint8 [B, h, w, 3], B a multiple of the number of devices.
      sizes: (height, width) of each of the B label maps.

    Returns:
      uint16 [B, H, W], H and W at least the largest height and width; what lies to the right of
      and below an image's own size means nothing.
    """
    if all(size == image.shape[1:3] for size in sizes):
      self._shapes.add(image.shape)
      return self._same_size(params, stats, self._put(image))
    padded = _padded_size(sizes)
    self._shapes.add((*image.shape, *padded))
    taps = [_taps(image.shape[1:3], size, padded) for size in sizes]
    taps = jax.tree.map(lambda *x: np.stack(x), *taps)
    return self._resized(params, stats, *self._put((image, taps)))

  def scores(
    self, params: Any, stats: Any, image: np.ndarray, sizes: Sequence[tuple[int, int]]
  ) -> list[np.ndarray]:
    """The scores that the labels are the argmax of.

    Args:
      params: on the predictor's mesh.
      stats: likewise.
      image: uint8 [B, h, w, 3], B a multiple of the number of devices.
      sizes: (height, width) of each of the B score maps.

    Returns:
      Per image float32 [C, height, width] in host memory; devices hold a block of classes at a
      time.
    """
    predictions = jax.device_get(self._predict(params, stats, self._put(image)))
    num_classes = self._architecture.num_classes
    padded = _padded_size(sizes)
    self._shapes.add((*image.shape, *padded))
    count = resize_labels.classes_per_block(num_classes, _num_pixels(image, padded))
    results = []
    for row, (height, width) in enumerate(sizes):
      prediction = jax.tree.map(lambda x, row=row: x[row], predictions)
      taps = _taps(image.shape[1:3], (height, width), padded)
      scores = np.empty((num_classes, height, width), np.float32)
      for start in range(0, num_classes, count):
        start = min(start, num_classes - count)
        block = self._class_block(prediction, start, image.shape[1:3], count, taps)
        scores[start : start + count] = np.asarray(block)[:height, :width].transpose(2, 0, 1)
      results.append(scores)
    return results

  def _put(self, tree: Any) -> Any:
    return jax.device_put(tree, mesh_lib.batch_sharding(self._mesh))

  def _network(self, params: Any, stats: Any, image: jax.Array) -> Any:
    return self._architecture.predict(params, stats, architectures.normalize(image))

  def _labels(self, params, stats, image, taps=None) -> jax.Array:
    """Label maps of one device's images, as many at a time as memory is meant to hold."""
    num_classes = self._architecture.num_classes
    size = image.shape[1:3] if taps is None else tuple(low.shape[1] for low, _ in taps)
    pixels = _num_pixels(image, size)

    def label(inputs):
      prediction, taps = inputs
      blocks = self._architecture.score_blocks(prediction, image.shape[1:3])
      return resize_labels.argmax(blocks, num_classes, pixels, taps)

    group = resize_labels.images_per_block(num_classes, pixels)
    return jax.lax.map(label, (self._network(params, stats, image), taps), batch_size=group)

  def _scores_of_block(self, prediction, start, size, count, taps) -> jax.Array:
    blocks = self._architecture.score_blocks(prediction, size)
    return resize_labels.resize(blocks(start, count), *taps)


def _padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
  """Height and width that hold every size, rounded up so that many sizes share a program."""
  height, width = (max(side) for side in zip(*sizes, strict=True))
  return tuple(-(-side // _LABEL_MULTIPLE) * _LABEL_MULTIPLE for side in (height, width))


def _num_pixels(image: np.ndarray | jax.Array, size: tuple[int, int]) -> int:
  """Pixels of one image or of its label map, whichever are more."""
  return max(image.shape[1] * image.shape[2], size[0] * size[1])


def _taps(size: tuple[int, int], label_size: tuple[int, int], padded: tuple[int, int]) -> Any:
  """Where the rows and the columns of a label map sample the input."""
  return tuple(
    resize_labels.bilinear_taps(*sides) for sides in zip(size, label_size, padded, strict=True)
  )


def confusion_matrix(
  predictor: Predictor,
  params: Any,
  stats: Any,
  batches: Iterable[eval_pipeline.EvalBatch],
  *,
  num_classes: int,
  ignore_label: int,
) -> np.ndarray:
  """Counts label against prediction over the images of all processes.

  Args:
    predictor: of this process.
    params: on the predictor's mesh.
    stats: likewise.
    batches: this process's share of the split.
    num_classes: C.
    ignore_label: pixels with it are left out.

  Returns:
    int64 [C, C], rows are labels, columns predictions; the same on every process.
  """
  counts = np.zeros((num_classes, num_classes), np.int64)
  done = 0

  def count(batch: eval_pipeline.EvalBatch, predicted: jax.Array) -> None:
    nonlocal done
    predicted = np.asarray(predicted)
    for row, label in enumerate(batch.labels):
      if label is None:  # a dummy that fills a short batch
        continue
      height, width = label.shape
      prediction = predicted[row, :height, :width]
      counts[...] += metrics.confusion_matrix(label, prediction, num_classes, ignore_label)
      done += 1

  pending = None
  for batch in batches:
    own = batch.image.shape[1:3]
    sizes = [own if label is None else label.shape for label in batch.labels]
    predicted = predictor(params, stats, batch.image, sizes)
    if pending is not None:  # The device works on this batch while the last one is counted.
      count(*pending)
    pending = (batch, predicted)
  if pending is not None:
    count(*pending)
  logging.info("evaluated %d images with %d compiled shapes", done, predictor.num_compilations)
  return sum_over_processes(counts)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Adds int64 arrays of all processes exactly (devices hold no int64, so the halves travel)."""
  if jax.process_count() == 1:
    return counts
  halves = np.ascontiguousarray(counts).view(np.uint32)
  gathered = np.asarray(multihost_utils.process_allgather(halves))  # [P, C, 2 C]
  return np.ascontiguousarray(gathered).view(np.int64).sum(0)
