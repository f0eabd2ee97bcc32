"""Class names written at the regions of a picture."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Regions are looked for in a label map of at most this side, so that their number stays small.
_SEARCH_SIDE = 512
# What gets a name: regions of at least this share of the picture, and no more than so many.
_SMALLEST_SHARE, _MOST_NAMES = 0.004, 24
# Height of the letters in px: this share of the shorter side, between these bounds.
_FONT_SHARE, _FONT_SIZES = 1 / 28, (11, 56)


@dataclasses.dataclass(frozen=True)
class Region:
  """A connected region of one class.

  Attributes:
    train_id: its class.
    share: share of the picture's pixels that it covers.
    center: (x, y) in px of the picture, its innermost point.
  """

  train_id: int
  share: float
  center: tuple[float, float]


def find_regions(label: np.ndarray, num_classes: int) -> list[Region]:
  """Finds the regions that are large enough for a name.

  Args:
    label: integers [H, W]; values of num_classes and more have no name.
    num_classes: C.

  Returns:
    Regions, the largest first.
  """
  step = -(-max(label.shape) // _SEARCH_SIDE)
  first = min(step // 2, min(label.shape) - 1)
  small = label[first::step, first::step]  # [h, w]
  counts = np.bincount(small.ravel(), minlength=num_classes)[:num_classes]
  least = max(1.0, _SMALLEST_SHARE * small.size)
  regions = []
  for train_id in np.flatnonzero(counts >= least):
    mask = (small == train_id).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    for part in range(1, count):  # 0 is the background
      area = stats[part, cv2.CC_STAT_AREA]
      if area >= least:
        x, y = _innermost(parts == part)
        center = ((x + 0.5) * step, (y + 0.5) * step)
        regions.append(Region(int(train_id), float(area) / small.size, center))
  return sorted(regions, key=lambda region: -region.share)


def _innermost(mask: np.ndarray) -> tuple[int, int]:
  """The pixel (x, y) of a region [h, w] that is farthest from its border."""
  padded = np.pad(mask, 1).astype(np.uint8)  # the picture's edge is a border too
  distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
  y, x = np.unravel_index(distance.argmax(), distance.shape)
  return int(x), int(y)


def draw_names(picture: np.ndarray, label: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Writes the names of the largest regions' classes into a picture, white with a black edge.

  A name that would leave the picture is moved inside; one that would cover another is left out, as
  is one that is wider than the picture.

  Args:
    picture: uint8 [H, W, 3].
    label: integers [H, W].
    names: names of the C classes.

  Returns:
    uint8 [H, W, 3].
  """
  height, width = label.shape
  size = int(np.clip(min(height, width) * _FONT_SHARE, *_FONT_SIZES))
  font, edge = ImageFont.load_default(size), max(1, size // 10)
  canvas = Image.fromarray(picture)
  draw, taken = ImageDraw.Draw(canvas), []
  for region in find_regions(label, len(names)):
    if len(taken) == _MOST_NAMES:
      break
    text = names[region.train_id]
    extent = draw.textbbox((0, 0), text, font=font, stroke_width=edge)
    box = _placed(extent, region.center, (width, height))
    if box is None or any(_overlap(box, other) for other in taken):
      continue
    taken.append(box)
    position = (box[0] - extent[0], box[1] - extent[1])
    draw.text(position, text, "white", font, stroke_width=edge, stroke_fill="black")
  return np.asarray(canvas)


def _placed(
  box: tuple[float, ...], center: tuple[float, float], size: tuple[int, int]
) -> tuple[int, ...] | None:
  """A text's box (left, top, right, bottom) around a centre and inside the picture, if it fits."""
  sides = (box[2] - box[0], box[3] - box[1])
  if sides[0] > size[0] or sides[1] > size[1]:
    return None
  start = [
    round(min(max(middle - side / 2, 0), limit - side))
    for middle, side, limit in zip(center, sides, size, strict=True)
  ]
  return (*start, start[0] + sides[0], start[1] + sides[1])


def _overlap(box: tuple[int, ...], other: tuple[int, ...]) -> bool:
  apart = box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
  return not apart
