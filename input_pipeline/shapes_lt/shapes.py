"""Outlines of the things, as polygons in the unit disc (x to the right, y down)."""

import math

import cv2
import numpy as np

# An outline is one or more contours; a point is inside where an odd number of them encloses it.
Outline = tuple[tuple[tuple[float, float], ...], ...]

# cv2 takes fixed-point corners; this many fractional bits place them to 1/16 px.
SUBPIXEL_BITS = 4


def _regular(corners: int, *, radius: float = 1.0, inner: float = 0.0) -> tuple:
  """Corners of a regular polygon, first one on top; with `inner`, of a star."""
  count = corners * 2 if inner else corners
  points = []
  for i in range(count):
    angle = 2 * math.pi * i / count - math.pi / 2
    r = inner if inner and i % 2 else radius
    points.append((r * math.cos(angle), r * math.sin(angle)))
  return tuple(points)


def _mirror(outline: Outline) -> Outline:
  return tuple(tuple((-x, y) for x, y in contour) for contour in outline)


def _crescent() -> Outline:
  """A disc minus a shifted one: the outer arc, then the inner arc back."""
  outer = [math.radians(a) for a in range(55, 306, 10)]
  arc = [(math.cos(a), math.sin(a)) for a in outer]
  tip_x, tip_y = arc[-1]
  centre = 0.62
  start = math.atan2(tip_y, tip_x - centre)
  radius = math.hypot(tip_x - centre, tip_y)
  # Both tips lie at the same angle off the x axis, so the inner arc runs from -start to +start.
  steps = np.linspace(-abs(start), -2 * math.pi + abs(start), 24)
  back = [(centre + radius * math.cos(a), radius * math.sin(a)) for a in steps]
  return (tuple((x + 0.15, y) for x, y in arc + back),)


def _heart() -> Outline:
  points = []
  for i in range(40):
    t = 2 * math.pi * i / 40
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    points.append((x / 17.5, -(y + 2.5) / 17.5))
  return (tuple(points),)


def _drop() -> Outline:
  """A disc whose top is drawn out into a tip."""
  arc = [math.radians(a) for a in range(-20, 201, 10)]
  return (((0.0, -1.0), *((0.68 * math.cos(a), 0.3 + 0.68 * math.sin(a)) for a in arc)),)


def _gear(teeth: int = 8) -> Outline:
  points = []
  for i in range(teeth):
    for offset, radius in ((-0.30, 0.74), (-0.22, 1.0), (0.22, 1.0), (0.30, 0.74)):
      angle = 2 * math.pi * (i + offset) / teeth
      points.append((radius * math.cos(angle), radius * math.sin(angle)))
  return (tuple(points), _regular(24, radius=0.3))


def _cross(arm: float = 0.33) -> Outline:
  a = arm
  return (
    ((-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a))
    + ((-1, -a), (-a, -a)),
  )


DISC = (_regular(48),)
SQUARE = (((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),)
TRIANGLE = (((0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)),)
STAR = (_regular(5, inner=0.42),)
ELLIPSE = (tuple((x, 0.58 * y) for x, y in _regular(40)),)
RING = (_regular(48), _regular(40, radius=0.52))
CROSS = _cross()
ARROW_RIGHT = (
  ((1, 0), (0.15, -0.8), (0.15, -0.34), (-1, -0.34), (-1, 0.34), (0.15, 0.34), (0.15, 0.8)),
)
ARROW_LEFT = _mirror(ARROW_RIGHT)
CRESCENT = _crescent()
HEXAGON = (_regular(6),)
HEART = _heart()
HOUSE = (((0, -1), (0.85, -0.2), (0.85, 0.85), (-0.85, 0.85), (-0.85, -0.2)),)
GEAR = _gear()
DROP = _drop()


def coverage(
  outline: Outline, center: tuple[float, float], diameter: float, turn: float, size: tuple[int, int]
) -> np.ndarray:
  """Draws an outline with soft edges.

  Args:
    outline: contours in the unit disc.
    center: (x, y) in px.
    diameter: diameter in px of the circle that the unit disc becomes.
    turn: rotation in degrees, clockwise as seen.
    size: (H, W) of the result in px.

  Returns:
    Coverage, uint8 [H, W]: 0 outside, 255 inside.
  """
  angle = math.radians(turn)
  rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
  contours = []
  for contour in outline:
    points = np.array(contour) @ rotation.T * (diameter / 2) + np.array(center)
    contours.append(np.round(points * 2**SUBPIXEL_BITS).astype(np.int32))
  mask = np.zeros(size, np.uint8)  # [H, W]
  cv2.fillPoly(mask, contours, 255, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
  return mask
