"""The training augmentation: one named and seeded transform for each step, and their chain.

A transform is a frozen dataclass called as `transform(example, rng) -> example`. An example is a
dict with `image` uint8 [H, W, 3] RGB and `label` uint8 or uint16 [H, W]; other keys pass through
untouched and arrays are never written to. All randomness comes from `rng`.

`Augmentation` has the settings and makes the chain of them; the colours are in `color_jitter.py`.
`Decode`, `ResizeShortestEdge` and `RandomCrop` are the definition of the first three steps, which
the training chain runs as one, `DecodeScaledCrop`.

The semantics are those of detectron2 0.6 (ResizeShortestEdge, RandomCrop_CategoryAreaConstraint)
and of Mask2Former (padding), down to the rounding of each step.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from input_pipeline.color_jitter import ColorJitter
from input_pipeline.decode import EncodedImage, decode_image, decode_label
from input_pipeline.resize import (
  resize_image,
  resize_label,
  resize_label_window,
  resize_window,
  shortest_edge_size,
)

Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]
Window = tuple[slice, slice]

# Tries of the limited crop before the last one is taken as it is (detectron2).
_CROP_TRIES = 10
# A JPEG is decoded at this many times the wanted size or more, so that the filter of the resize
# that follows, and not that of the decoder, decides what the image looks like.
_DECODE_MARGIN = 1.5


def value_counts(label: np.ndarray) -> np.ndarray:
  """How many pixels have each value: uint8 or uint16 [H, W] -> float32 [256 or 65536].

  Exact up to 2^24 pixels; four times as fast as numpy's bincount on 8-bit labels.
  """
  size = np.iinfo(label.dtype).max + 1
  return cv2.calcHist([np.ascontiguousarray(label)], [0], None, [size], [0, size]).ravel()


@dataclasses.dataclass(frozen=True)
class Decode:
  """Turns the encoded `image` and `label` bytes of a record into arrays of one size.

  Raises:
    ValueError: names `file_name`, if either cannot be decoded or their sizes differ.
  """

  def __call__(self, example: Example, rng: np.random.Generator | None = None) -> Example:
    """Returns the example with decoded arrays."""
    del rng  # Deterministic; the argument keeps the call of all transforms the same.
    name = example["file_name"]
    image = decode_image(example["image"], name)
    label = decode_label(example["label"], name)
    _check_sizes(name, image.shape[:2], label.shape)
    return {**example, "image": image, "label": label}


def _check_sizes(name: str, image: tuple[int, int], label: tuple[int, int]) -> None:
  if image != label:
    raise ValueError(
      f"{name}: the image has size {image} and its label {label} "
      "(height, width); they must be equal."
    )


@dataclasses.dataclass(frozen=True)
class ResizeShortestEdge:
  """Draws the shorter side uniformly from int(k * 0.1 * base_size), k = 10 min .. 10 max factor.

  Attributes:
    base_size: shorter side in pixels that scale factor 1.0 stands for.
    max_size: limit of the longer side in pixels.
    min_factor, max_factor: range of the scale factor, in steps of 0.1.
  """

  base_size: int
  max_size: int
  min_factor: float
  max_factor: float

  def __post_init__(self):
    if not self.sizes or self.sizes[0] < 1 or self.max_size < 1:
      raise ValueError(
        f"No size to resize to: base_size={self.base_size}, min_factor={self.min_factor}, "
        f"max_factor={self.max_factor}, max_size={self.max_size}; sizes must be at least 1 pixel "
        "and a multiple of 0.1 must lie between the factors."
      )

  @property
  def sizes(self) -> list[int]:
    """Shorter sides to draw from, in pixels."""
    # The multiples of 0.1 between both; what they lack to one is rounding.
    first, last = math.ceil(10 * self.min_factor - 1e-6), math.floor(10 * self.max_factor + 1e-6)
    factors = range(first, last + 1)
    return [int(factor * 0.1 * self.base_size) for factor in factors]

  def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draws the (height, width) in pixels that an example of the given size is brought to."""
    sizes = self.sizes
    size = sizes[rng.integers(len(sizes))]
    return shortest_edge_size(height, width, size, self.max_size)

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns the example resized to a drawn size."""
    image = example["image"]
    height, width = self.draw(*image.shape[:2], rng)
    return {
      **example,
      "image": resize_image(image, height, width),
      "label": resize_label(example["label"], height, width),
    }


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """Crops size x size at a uniform place; the whole extent where a side is smaller.

  Attributes:
    size: height and width of the crop in pixels.
    ignore_label: label value that counts for no category.
    max_category_share: a crop whose most frequent category covers this share of the labelled pixels
      or more, or that holds a single category, is drawn again, up to 10 draws. 1.0 is off.
  """

  size: int
  ignore_label: int
  max_category_share: float

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns a window of the example."""
    label = example["label"]
    window, label = self.draw(*label.shape, lambda window: label[window], rng)
    return {**example, "image": example["image"][window], "label": label}

  def draw(
    self,
    height: int,
    width: int,
    label_in: Callable[[Window], np.ndarray],
    rng: np.random.Generator,
  ) -> tuple[Window, np.ndarray]:
    """Draws the window of a crop.

    Args:
      height: height of the example in pixels.
      width: width of the example in pixels.
      label_in: function from a window to its label.
      rng: source of randomness.

    Returns:
      ((rows, columns) of the window, its label).
    """
    crop_height, crop_width = min(self.size, height), min(self.size, width)
    tries = 1 if self.max_category_share >= 1.0 else _CROP_TRIES
    for _ in range(tries):
      top = int(rng.integers(height - crop_height + 1))
      left = int(rng.integers(width - crop_width + 1))
      window = (slice(top, top + crop_height), slice(left, left + crop_width))
      label = label_in(window)
      if tries == 1 or self._is_mixed(label):
        break
    return window, label

  def _is_mixed(self, label: np.ndarray) -> bool:
    categories, pixels = np.unique(label, return_counts=True)
    pixels = pixels[categories != self.ignore_label]
    return len(pixels) > 1 and pixels.max() < pixels.sum() * self.max_category_share


@dataclasses.dataclass(frozen=True)
class DecodeScaledCrop:
  """Decode, ResizeShortestEdge and RandomCrop in one, without the work for what is cropped away.

  The draws, and so the geometry, are those of the three in turn, and so is the label.

  Attributes:
    resize: draws the size.
    crop: draws the window.
    exact: the image, too, is bit by bit that of the three in turn (Pillow's bilinear resize of the
      whole image). False: enlarging is faster and off by at most 1 (`resize.resize_window`), and a
      JPEG of at least three times the wanted size is decoded at 1/2, 1/4 or 1/8 of its size, which
      is off by 1.3 to 2.7 on average in small photographs (213 x 320), and by up to 75 at edges.

  Raises:
    ValueError: as `Decode`.
  """

  resize: ResizeShortestEdge
  crop: RandomCrop
  exact: bool

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns a window of the example, decoded and resized."""
    name = example["file_name"]
    label = decode_label(example["label"], name)
    encoded = EncodedImage(example["image"], name)
    _check_sizes(name, encoded.size, label.shape)
    size = self.resize.draw(*label.shape, rng)
    window, crop_label = self.crop.draw(
      *size, lambda window: resize_label_window(label, *size, window), rng
    )
    least = None if self.exact else tuple(math.ceil(_DECODE_MARGIN * side) for side in size)
    image = resize_window(encoded.decode(least), *size, window, self.exact)
    return {**example, "image": image, "label": crop_label}


@dataclasses.dataclass(frozen=True)
class RandomFlip:
  """Mirrors left and right; classes of a pair (left arm, right arm) change places in the label.

  Attributes:
    flip_pairs: (a, b) train ids that swap. All other values, the ignore label among them, stay.
    probability: probability of a flip.
  """

  flip_pairs: Sequence[tuple[int, int]] = ()
  probability: float = 0.5

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns the example, mirrored or as it is."""
    if rng.random() >= self.probability:
      return example
    # OpenCV writes a mirrored copy 40 times as fast as numpy copies a view with a negative step.
    image, label = (cv2.flip(np.ascontiguousarray(example[key]), 1) for key in ("image", "label"))
    return {**example, "image": image, "label": self.swap(label)}

  def swap(self, label: np.ndarray) -> np.ndarray:
    """Exchanges the paired classes of a label [H, W]; the result has the same type."""
    if not self.flip_pairs:
      return label
    table = np.arange(np.iinfo(label.dtype).max + 1, dtype=label.dtype)
    for a, b in self.flip_pairs:
      table[a], table[b] = b, a
    return table[label]


@dataclasses.dataclass(frozen=True)
class PadTo:
  """Pads at the right and at the bottom to size x size.

  Attributes:
    size: height and width of the result in pixels.
    ignore_label: value of the padded label pixels.
    image_value: value of the padded image pixels.
  """

  size: int
  ignore_label: int
  image_value: int = 128

  def __call__(self, example: Example, rng: np.random.Generator | None = None) -> Example:
    """Returns the example, padded."""
    del rng  # Deterministic; the argument keeps the call of all transforms the same.
    image, label = example["image"], example["label"]
    height, width = label.shape
    if height == width == self.size:
      return example
    if max(height, width) > self.size:
      raise ValueError(
        f"An example of {height} x {width} pixels does not fit into {self.size} x {self.size}; "
        "crop it before padding."
      )
    if self.ignore_label > np.iinfo(label.dtype).max:
      raise ValueError(
        f"ignore_label {self.ignore_label} does not fit into a label of type {label.dtype}; "
        "use 255 with 8-bit labels."
      )
    padded_image = np.full((self.size, self.size, 3), self.image_value, np.uint8)  # [S, S, 3]
    padded_label = np.full((self.size, self.size), self.ignore_label, label.dtype)  # [S, S]
    padded_image[:height, :width] = image
    padded_label[:height, :width] = label
    return {**example, "image": padded_image, "label": padded_label}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Settings of the training augmentation.

  Attributes:
    crop_size: S, height and width of the augmented examples in pixels.
    base_size: shorter side in pixels that scale factor 1.0 stands for.
    min_factor, max_factor: range of the scale factor.
    max_size: limit of the resized longer side in pixels.
    max_category_share: limit on one category's share of a crop; 1.0 is off.
    color_jitter, flip: whether these are on.
    exact_pixels: images bit by bit as the release's; False: faster, see `DecodeScaledCrop` and
      `ColorJitter`.
    ignore_label: label value of unlabelled and padded pixels.
    flip_pairs: train ids that swap under a flip.
  """

  crop_size: int
  base_size: int
  min_factor: float
  max_factor: float
  max_size: int
  max_category_share: float
  color_jitter: bool
  flip: bool
  exact_pixels: bool
  ignore_label: int
  flip_pairs: Sequence[tuple[int, int]] = ()

  def __post_init__(self):
    if self.crop_size < 1:
      raise ValueError(f"crop_size is {self.crop_size}; it must be at least 1.")

  def chain(self) -> list[Transform]:
    """The transforms in order; every example leaves the last one with the same shape."""
    resize = ResizeShortestEdge(self.base_size, self.max_size, self.min_factor, self.max_factor)
    crop = RandomCrop(self.crop_size, self.ignore_label, self.max_category_share)
    chain = [DecodeScaledCrop(resize, crop, self.exact_pixels)]
    if self.color_jitter:
      chain.append(ColorJitter(exact=self.exact_pixels))
    if self.flip:
      chain.append(RandomFlip(self.flip_pairs))
    return [*chain, PadTo(self.crop_size, self.ignore_label)]
