"""The label maps of batches of images, of any sizes, on this process's own devices."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ltss_jax import architectures, mesh as mesh_lib
from ltss_jax.inference import score_maps, sliding_window, test_time_augmentation
from ltss_jax.inference.test_time_augmentation import Size, View


class Predictor:
  """Label maps of image batches; compiles once per (input shapes, padded label shape)."""

  def __init__(
    self,
    architecture: architectures.Architecture,
    mesh: Mesh,
    augmentation: test_time_augmentation.AugmentationOptions | None = None,
  ):
    """Sets up.

    Args:
      architecture: the model; one of square inputs sees windows.
      mesh: mesh of this process's own devices; the batch is split over it.
      augmentation: the views whose scores are averaged; None: the images as they are.
    """
    self._architecture, self._mesh = sliding_window.any_size(architecture), mesh
    self._scored_size = functools.partial(sliding_window.padded_size, architecture)
    self._augmentation = augmentation or test_time_augmentation.NO_AUGMENTATION
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
      params: parameters on the predictor's mesh.
      stats: statistics on the predictor's mesh.
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
      params: parameters on the predictor's mesh.
      stats: statistics on the predictor's mesh.
      image: uint8 [B, h, w, 3], B a multiple of the number of devices.
      sizes: (height, width) of each of the B score maps.
      input_sizes: sizes as for label maps.

    Returns:
      Per image float32 [C, height, width] in host memory; devices hold a block of classes at a
      time.
    """
    views = self._views(image, sizes, input_sizes, always_resize=True)
    predictions = jax.device_get(self._predict(params, stats, self._put(views)))
    num_classes = self._architecture.num_classes
    count = score_maps.classes_per_block(num_classes, self._num_pixels(views) * len(views))
    shapes = tuple(view.image.shape[1:3] for view in views)
    of_images = [(p, view.interpolation) for p, view in zip(predictions, views, strict=True)]
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
    views = test_time_augmentation.make_views(
      self._augmentation, image, input_sizes, sizes, always_resize=always_resize
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
    num_classes, pixels = self._architecture.num_classes, self._num_pixels(views)
    shapes = [view.image.shape[1:3] for view in views]
    predictions = self._networks(params, stats, views)

    def label(of_image):
      return score_maps.argmax_of_mean(self._maps(of_image, shapes), num_classes, pixels)

    group = score_maps.images_per_block(num_classes, pixels * len(views))
    of_images = [(p, view.interpolation) for p, view in zip(predictions, views, strict=True)]
    return jax.lax.map(label, of_images, batch_size=group)

  def _scores_of_block(self, of_image, start, shapes, count) -> jax.Array:
    return score_maps.mean_block(self._maps(of_image, shapes), start, count)

  def _maps(self, of_image, shapes: Sequence[Size]) -> list[score_maps.ScoreMap]:
    """Score maps of one image from (prediction, interpolation) of each of its views."""
    order = test_time_augmentation.class_order(self._augmentation, self._architecture.num_classes)
    maps = []
    for index, (one, shape) in enumerate(zip(of_image, shapes, strict=True)):
      prediction, interpolation = one
      blocks = self._architecture.score_blocks(prediction, shape)
      if (
        test_time_augmentation.is_mirrored(self._augmentation, index)
        and self._augmentation.flip_pairs
      ):
        blocks = score_maps.reordered(blocks, order)
      maps.append((blocks, interpolation))
    return maps

  def _num_pixels(self, views: list[View]) -> int:
    """Pixels of the largest view of one image or of its label map, whichever are more."""
    inputs = [math.prod(self._scored_size(view.image.shape[1:3])) for view in views]
    outputs = [
      low.shape[1] for view in views if view.interpolation for low, _ in view.interpolation
    ]
    return max(*inputs, math.prod(outputs[:2]))


def _network_input(view: View) -> jax.Array:
  """The normalised image; what is padding becomes 0, as where a model pads by itself."""
  image = architectures.normalize(view.image)
  if view.extent is None:
    return image
  rows, columns = (jnp.arange(side) for side in image.shape[1:3])
  height, width = view.extent[:, 0, None, None], view.extent[:, 1, None, None]
  inside = (rows[:, None] < height) & (columns < width)  # [B, h, w]
  return jnp.where(inside[..., None], image, 0)
