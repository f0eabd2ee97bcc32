"""The four pixels around a sampled point: the arithmetic that all gathering backends share.

Coordinates are those of torch's `grid_sample(padding_mode="zeros", align_corners=False)`: a map's
edges lie at 0 and 1, the centre of pixel i of n at (i + 0.5) / n. Everything here is elementwise,
of broadcastable shapes, so that whole arrays and the blocks of a kernel go through the same lines;
sizes are integers or integer arrays.
"""

import jax
import jax.numpy as jnp

Corners = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def corners(
  x: jax.Array,
  y: jax.Array,
  attention_weight: jax.Array,
  height: int | jax.Array,
  width: int | jax.Array,
) -> tuple[Corners, Corners]:
  """Returns weight and index of a point's corners: top left, top right, bottom left, bottom right.

  Args:
    x: location across, in units of the map's width; any number, infinite or none at all.
    y: location down, in units of the map's height.
    attention_weight: the point's, which scales the bilinear weights.
    height: height of the map in pixels.
    width: width of the map in pixels.

  Returns:
    The weights, 0 for corners off the map, differentiable in the three arrays (on a pixel centre
    with the derivative to the right of it), and the indices row * width + column in the map, int32;
    for corners off the map that of some pixel, so that they can be read without a check.
  """
  columns, across = _neighbours(x, width)
  rows, down = _neighbours(y, height)
  down = tuple(attention_weight * weight for weight in down)
  weights = tuple(vertical * horizontal for vertical in down for horizontal in across)
  return weights, tuple(row * width + column for row in rows for column in columns)


def _neighbours(location: jax.Array, size: int | jax.Array):
  """Returns the indices and the weights of the two pixels beside a location on one axis."""
  position = location * size - 0.5
  low = jnp.floor(position)
  part = position - low
  pixels = low, low + 1
  inside = tuple((pixel >= 0) & (pixel < size) for pixel in pixels)
  # Selected as floats: what is far outside or no number fits no integer.
  indices = (
    jnp.where(i, pixel, 0).astype(jnp.int32) for i, pixel in zip(inside, pixels, strict=True)
  )
  weights = (jnp.where(i, w, 0) for i, w in zip(inside, (1 - part, part), strict=True))
  return tuple(indices), tuple(weights)
