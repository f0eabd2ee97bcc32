"""Evaluation: every image once, at its own label resolution, on this process's own devices."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

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
    self._mesh = mesh
    self._shapes: set[tuple[int, ...]] = set()
    batch, replicated = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    jit = functools.partial(jax.jit, out_shardings=batch)

    def scores(params, stats, image):
      return architecture.scores(params, stats, architectures.normalize(image))

    self._same_size = jit(
      lambda params, stats, image: jnp.argmax(scores(params, stats, image), -1).astype(jnp.uint16),
      in_shardings=(replicated, replicated, batch),
    )
    self._resized = jit(
      lambda params, stats, image, rows, columns: resize_labels.resized_argmax(
        scores(params, stats, image), rows, columns
      ),
      in_shardings=(replicated, replicated, batch, batch, batch),
    )

  @property
  def num_compilations(self) -> int:
    """Distinct shapes seen so far."""
    return len(self._shapes)

  def __call__(
    self, params: Any, stats: Any, image: np.ndarray, sizes: list[tuple[int, int]]
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
    put = functools.partial(jax.device_put, device=mesh_lib.batch_sharding(self._mesh))
    if all(size == image.shape[1:3] for size in sizes):
      self._shapes.add(image.shape)
      return self._same_size(params, stats, put(image))
    padded = tuple(
      -(-max(side) // _LABEL_MULTIPLE) * _LABEL_MULTIPLE for side in zip(*sizes, strict=True)
    )
    self._shapes.add((*image.shape, *padded))

    def taps(axis: int) -> tuple[np.ndarray, np.ndarray]:
      each = [
        resize_labels.bilinear_taps(image.shape[1 + axis], size[axis], padded[axis])
        for size in sizes
      ]
      return tuple(np.stack(x) for x in zip(*each, strict=True))

    return self._resized(params, stats, *put((image, taps(0), taps(1))))


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
