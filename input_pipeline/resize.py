"""Sizes and resampling of images and labels, for training and for test inputs."""

import math

import cv2
import numpy as np
from PIL import Image


def shortest_edge_size(
  height: int, width: int, size: int, max_size: int, *, half_even: bool = False
) -> tuple[int, int]:
  """Output size that brings the shorter side to `size`, the longer one to at most `max_size`.

  Both sides stay fractional until the end and are rounded once, as in detectron2
  (ResizeShortestEdge.get_output_shape) by int(x + 0.5), or as in EoMT's release by round(x).

  Args:
    height: input height in pixels.
    width: input width in pixels.
    size: wanted length of the shorter side in pixels.
    max_size: limit of the longer side in pixels.
    half_even: whether a half is rounded to the even number, not up.

  Returns:
    (height, width) of the output in pixels, at least 1 each.
  """
  scale = size / min(height, width)
  if height < width:
    new_height, new_width = float(size), scale * width
  else:
    new_height, new_width = scale * height, float(size)
  longer = max(new_height, new_width)
  if longer > max_size:
    shrink = max_size / longer
    new_height, new_width = new_height * shrink, new_width * shrink
  if half_even:
    return max(1, round(new_height)), max(1, round(new_width))
  return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Pillow's (anti-aliased) bilinear resize on uint8: [H, W, 3] -> [height, width, 3]."""
  if image.shape[:2] == (height, width):
    return image
  resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(resized)  # [height, width, 3]


def resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
  """Nearest resize with source index floor(i * in / out): [H, W] -> [height, width].

  This is what torch.nn.functional.interpolate(mode="nearest") means. torch evaluates in / out in
  float32, which for some sizes falls one source pixel short; here the index is exact (integers).
  """
  if label.shape == (height, width):
    return label
  rows = np.arange(height) * label.shape[0] // height
  columns = np.arange(width) * label.shape[1] // width
  # Columns are the expensive gather, so they are taken from as few rows as possible.
  if height < label.shape[0]:
    return label[rows].take(columns, axis=1)
  return label.take(columns, axis=1)[rows]


def resize_label_window(
  label: np.ndarray, height: int, width: int, window: tuple[slice, slice]
) -> np.ndarray:
  """`resize_label(label, height, width)[window]`, made of the window's pixels alone."""
  rows, columns = window
  rows = np.arange(rows.start, rows.stop) * label.shape[0] // height
  columns = np.arange(columns.start, columns.stop) * label.shape[1] // width
  # Columns are the expensive gather, so they are taken from as few rows as possible.
  first, last = rows[0], rows[-1] + 1
  if last - first > len(rows):
    return label[rows].take(columns, axis=1)
  return label[first:last].take(columns, axis=1)[rows - first]


def resize_window(
  image: Image.Image, height: int, width: int, window: tuple[slice, slice], exact: bool
) -> np.ndarray:
  """A window of an image's bilinear resize to [height, width].

  Args:
    image: RGB.
    height: height of the resized whole image in pixels.
    width: width of the resized whole image in pixels.
    window: (rows, columns) of the resized image.
    exact: whether the result is `resize_image(image, height, width)[window]` bit by bit. Else an
      image that is enlarged on both axes is resized by OpenCV, which rounds once where Pillow
      rounds after each axis: values differ by 1 at most, in up to a third of them.

  Returns:
    uint8 [window height, window width, 3].
  """
  rows, columns = window
  if (image.height, image.width) == (height, width):
    return np.asarray(image)[window]
  if not exact and height >= image.height and width >= image.width:
    # Resizing the whole is faster than cv2.warpAffine of the window, which also rounds otherwise.
    resized = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized[window]
  if (rows.stop - rows.start, columns.stop - columns.start) == (height, width):
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
  return _resize_axes_apart(image, height, width, window)


def _resize_axes_apart(
  image: Image.Image, height: int, width: int, window: tuple[slice, slice]
) -> np.ndarray:
  """A window of Pillow's resize, bit by bit, without most of the work for the rest.

  Pillow resizes along the rows first, rounds, and then along the columns. So the first half can
  do with the source rows that the window depends on, and the second with the window's columns.
  Its own argument `box` is float32 and gives other values.
  """
  rows, columns = window
  scale = image.height / height
  reach = max(scale, 1.0) + 1  # half the filter, and more than any rounding
  top = max(0, int(rows.start * scale - reach))
  bottom = min(image.height, math.ceil(rows.stop * scale + reach))
  strip = image.crop((0, top, image.width, bottom))
  strip = strip.resize((width, bottom - top), Image.Resampling.BILINEAR)
  # The other source rows are left black: no row of the window looks at them.
  narrow = Image.new("RGB", (columns.stop - columns.start, image.height))
  narrow.paste(strip.crop((columns.start, 0, columns.stop, strip.height)), (0, top))
  resized = narrow.resize((narrow.width, height), Image.Resampling.BILINEAR)
  return np.asarray(resized.crop((0, rows.start, resized.width, rows.stop)))


def eval_size(
  height: int, width: int, min_size: int, max_size: int, *, half_even: bool = False
) -> tuple[int, int]:
  """Size of the model's input for one test image (single scale, unpadded).

  Args:
    height: image height in pixels.
    width: image width in pixels.
    min_size: wanted length of the shorter side in pixels; 0 keeps the native size.
    max_size: limit of the longer side in pixels (not applied to native sizes).
    half_even: whether a half is rounded to the even number, not up.

  Returns:
    (height, width) in pixels.
  """
  if min_size == 0:
    return height, width
  return shortest_edge_size(height, width, min_size, max_size, half_even=half_even)
