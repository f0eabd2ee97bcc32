"""Test-time augmentation: the model sees several views of an image, whose scores are averaged.

A view is the image at one of several sizes, mirrored or not, padded to a common shape.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.resize import resize_image, shortest_edge_size
from ltss_jax.inference import score_maps

Size = tuple[int, int]  # height, width in pixels

# Label sizes are padded to multiples of this, so that photographs of many sizes share a program.
_LABEL_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class AugmentationOptions:
  """The views of an image whose score maps are averaged.

  Attributes:
    scales: shorter sides in pixels that the image is resized to; (): it keeps its size.
    max_size: limit of the longer side in pixels, at these scales.
    flip: whether each size is also seen mirrored.
    shape_multiple: images of different sizes in one batch are padded to a multiple of this.
    flip_pairs: classes that swap in a mirrored image.
    half_even: whether halves of resized sides are rounded to the even number, not up.
  """

  scales: tuple[int, ...]
  max_size: int
  flip: bool
  shape_multiple: int
  flip_pairs: tuple[tuple[int, int], ...] = ()
  half_even: bool = False


# The only view is the image as it is.
NO_AUGMENTATION = AugmentationOptions(scales=(), max_size=0, flip=False, shape_multiple=1)


class View(NamedTuple):
  """One view of a batch.

  Attributes:
    image: uint8 [B, h, w, 3].
    extent: int32 [B, 2], height and width of each image in it; None where all fill it.
    interpolation: `interpolation_weights` of the rows and columns of each label map, [B, H] and
      [B, W]; None where label maps have the view's size.
  """

  image: Any
  extent: Any
  interpolation: Any


def make_views(
  options: AugmentationOptions,
  image: np.ndarray,
  input_sizes: Sequence[Size],
  sizes: Sequence[Size],
  *,
  always_resize: bool = False,
) -> list[View]:
  """The views of a batch, in the order of the scales, a mirrored one after each.

  As in the release, other scales are made of the image at its test size, not of the file's.

  Args:
    options: the wanted views.
    image: uint8 [B, h, w, 3].
    input_sizes: (height, width) of each of the B images, from the top left corner of `image`.
    sizes: (height, width) of each of the B label maps.
    always_resize: whether to interpolate even where the label maps have the input's size.
  """
  padded = _padded_size(sizes)
  inputs = [(image, list(input_sizes))]
  if options.scales:
    inputs = [_scaled(options, image, input_sizes, scale) for scale in options.scales]
  views = []
  for pixels, inside in inputs:
    shape = pixels.shape[1:3]
    extent = None if all(size == shape for size in inside) else np.array(inside, np.int32)
    views.append(View(pixels, extent, _interpolation(inside, sizes, padded)))
    if options.flip:
      interpolation = _interpolation(inside, sizes, padded, mirrored=True)
      views.append(View(_mirrored(pixels, inside), extent, interpolation))
  as_it_is = len(views) == 1 and all(size == shape for size in (*inside, *sizes))
  return [View(pixels, None, None)] if as_it_is and not always_resize else views


def is_mirrored(options: AugmentationOptions, index: int) -> bool:
  """Whether `make_views` mirrors the view of this index."""
  return options.flip and index % 2 == 1


def class_order(options: AugmentationOptions, num_classes: int) -> list[int]:
  """The class of a mirrored image that each class of the image becomes."""
  order = list(range(num_classes))
  for left, right in options.flip_pairs:
    order[left], order[right] = right, left
  return order


def _scaled(
  options: AugmentationOptions, image: np.ndarray, input_sizes: Sequence[Size], scale: int
) -> tuple[np.ndarray, list[Size]]:
  """The batch at another scale and the size of each of its images."""
  inside = [
    shortest_edge_size(*size, scale, options.max_size, half_even=options.half_even)
    for size in input_sizes
  ]
  multiple = options.shape_multiple
  shape = [-(-max(side) // multiple) * multiple for side in zip(*inside, strict=True)]
  if len(set(inside)) == 1 and list(input_sizes) == [image.shape[1:3]] * len(image):
    shape = inside[0]  # a batch of one exact shape stays one
  result = np.zeros((len(image), *shape, 3), np.uint8)
  for row, ((height, width), (new_height, new_width)) in enumerate(
    zip(input_sizes, inside, strict=True)
  ):
    resized = resize_image(image[row, :height, :width], new_height, new_width)
    result[row, :new_height, :new_width] = resized
  return result, inside


def _mirrored(image: np.ndarray, inside: Sequence[Size]) -> np.ndarray:
  result = np.zeros_like(image)
  for row, (height, width) in enumerate(inside):
    result[row, :height, :width] = image[row, :height, :width][:, ::-1]
  return result


def _padded_size(sizes: Sequence[Size]) -> Size:
  """Height and width that hold every size, rounded up so that many sizes share a program."""
  height, width = (max(side) for side in zip(*sizes, strict=True))
  return tuple(-(-side // _LABEL_MULTIPLE) * _LABEL_MULTIPLE for side in (height, width))


def _interpolation(
  inside: Sequence[Size], sizes: Sequence[Size], padded: Size, mirrored: bool = False
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Where the rows and the columns of each label map sample the view: ([B, H], [B, H]), ..."""
  interpolation = []  # of the rows, of the columns
  for axis in (0, 1):
    pairs = [
      score_maps.interpolation_weights(own[axis], size[axis], padded[axis], mirrored and axis == 1)
      for own, size in zip(inside, sizes, strict=True)
    ]
    interpolation.append(tuple(np.stack(x) for x in zip(*pairs, strict=True)))
  return tuple(interpolation)
