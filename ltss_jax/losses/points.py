"""Random points on masks: drawing them, and sampling at them by gathers.

A target mask never exists as an image: its value at a point is the bilinear weight of the corners
whose label is the class, read from the label map. `sampling` has the same without gathers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Of the padding around a label map. No class has it, so the outside belongs to no mask.
_OUTSIDE = -2
# Logit of a probability that is 0 in float32, as is its softplus.
_NEVER = -1e4


class Points(NamedTuple):
  """Points in units of the whole map: the centre of pixel i lies at (i + 0.5) / width.

  Attributes:
    x: [..., K] float32.
    y: [..., K] float32. Apart from x, since XLA turns the joint array into copies and repeats.
  """

  x: jax.Array
  y: jax.Array


class LabelMaps(NamedTuple):
  """Label maps in the form of either way to sample them; what is not used costs nothing.

  Attributes:
    padded: [B, H+2, W+2] int32, with one pixel of no class on every side.
    codes: [B, H, W] int32, `code_of` the labels, which leaves 0 for the outside.
  """

  padded: jax.Array
  codes: jax.Array


def draw(key: jax.Array, num_points: int) -> Points:
  """Points drawn uniformly from the unit square.

  One 32-bit word makes a point, 16 bits a coordinate, since drawing is a good part of the
  criterion's cost. 1 / 65,536 of the width is a hundredth of a pixel in an image of 655.

  Args:
    key: PRNG key.
    num_points: K.

  Returns:
    [K] points with coordinates inside (0, 1).
  """
  words = jax.random.bits(key, (num_points,), jnp.uint32)
  return Points(coordinate(words >> 16), coordinate(words & 0xFFFF))


def coordinate(half: jax.Array) -> jax.Array:
  """The coordinate of a drawn point that 16 bits stand for."""
  return (half.astype(jnp.float32) + 0.5) / 65536


class Place(NamedTuple):
  """Where points lie between the pixel centres of a map.

  Attributes:
    row: [..., K] int32, row of the upper left corner, -1 to H - 1.
    column: [..., K] int32, likewise.
    y: [..., K] float32, distance from that corner in pixels, in [0, 1].
    x: [..., K] float32, likewise.
  """

  row: jax.Array
  column: jax.Array
  y: jax.Array
  x: jax.Array


def place(points: Points, height: int, width: int) -> Place:
  """Finds the corners of points in a map of H x W; those further out get corners outside alone."""
  x, y = points.x * width - 0.5, points.y * height - 0.5
  column, row = jnp.clip(jnp.floor(x), -1, width - 1), jnp.clip(jnp.floor(y), -1, height - 1)
  y, x = jnp.clip(y - row, 0, 1), jnp.clip(x - column, 0, 1)
  return Place(row.astype(jnp.int32), column.astype(jnp.int32), y, x)


def interpolate(corners: Sequence[jax.Array], y: jax.Array, x: jax.Array) -> jax.Array:
  """Bilinear mean of upper left, upper right, lower left, lower right, (y, x) from the first."""
  upper = (1 - x) * corners[0] + x * corners[1]
  lower = (1 - x) * corners[2] + x * corners[3]
  return (1 - y) * upper + y * lower


def _gather(at: Place, width: int, get: Callable[[jax.Array], jax.Array]) -> list[jax.Array]:
  """The corners of places, by their indices in a flat map with a pixel of padding all around."""
  index = (at.row + 1) * (width + 2) + at.column + 1
  return [get(index + offset) for offset in (0, 1, width + 2, width + 3)]


def sample(maps: jax.Array, points: Points) -> jax.Array:
  """Bilinear values at points, zero outside (`grid_sample` with align_corners=False in torch).

  Args:
    maps: [H, W] or [H, W, C] float32.
    points: [K] points.

  Returns:
    [K] or [K, C] float32.
  """
  height, width, *channels = maps.shape
  at = place(points, height, width)  # [K]
  y, x = (at.y[:, None], at.x[:, None]) if channels else (at.y, at.x)
  padded = jnp.pad(maps, [(1, 1), (1, 1)] + [(0, 0)] * len(channels))
  flat = padded.reshape(-1, *channels)  # [(H+2)(W+2), C]
  get = lambda index: flat.at[index].get(mode="promise_in_bounds")  # noqa: E731
  return interpolate(_gather(at, width, get), y, x)


def label_maps(labels: jax.Array) -> LabelMaps:
  """Prepares label maps [B, H, W] of integer class ids, -1 to 65,535, for all that samples them."""
  labels = labels.astype(jnp.int32)
  padded = jnp.pad(labels, [(0, 0), (1, 1), (1, 1)], constant_values=_OUTSIDE)
  return LabelMaps(padded, code_of(labels))


def code_of(classes: jax.Array) -> jax.Array:
  """The codes of class ids in `LabelMaps.codes`."""
  return classes - _OUTSIDE


def label_values(
  labels: LabelMaps, image: jax.Array, classes: jax.Array, points: Points
) -> jax.Array:
  """Values of binary class masks at points, sampled as `sample` does, without making the masks.

  Args:
    labels: label maps.
    image: int32 scalar, the image of the batch to read.
    classes: [] or [T] int32 class ids.
    points: [K] points.

  Returns:
    [K] or [K, T] float32 in [0, 1]: the bilinear weight of the corners with that class.
  """
  batch, height, width = labels.codes.shape
  at = place(points, height, width)  # [K]
  flat = labels.padded.reshape(batch, -1)
  column = (slice(None),) + (None,) * classes.ndim  # [K] -> [K, 1] for several classes

  def get(index):
    label = flat.at[image, index].get(mode="promise_in_bounds")  # [K]
    return (label[column] == classes).astype(jnp.float32)  # [K, T]

  return interpolate(_gather(at, width, get), at.y[column], at.x[column])


def leave_out(
  ignored: jax.Array, logits: jax.Array, target_values: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Takes the points on ignored pixels out of costs and losses.

  They get a logit whose probability and softplus are 0, and no target, so that they add nothing to
  any sum over points. A point is left out where it touches an ignored pixel at all, as its value is
  not known then.

  Args:
    ignored: [K] value of the mask of ignored pixels at the points.
    logits: [K, ...] mask logits at them.
    target_values: [K, ...] target masks at them.

  Returns:
    (logits, target_values, factor); the factor turns a mean over all points into one over those
    that are left, or into 0.
  """
  valid = ignored == 0
  factor = valid.size / jnp.maximum(jnp.sum(valid), 1)
  of_rank = lambda x: valid.reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
  logits = jnp.where(of_rank(logits), logits, _NEVER)
  return logits, jnp.where(of_rank(target_values), target_values, 0.0), factor
