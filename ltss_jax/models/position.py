"""Positions in a feature map: DETR's sine encoding, and DINOv3's rotary ones."""

import jax
import jax.numpy as jnp
import numpy as np

_TEMPERATURE = 10_000
_EPSILON = 1e-6
_ROTARY_BASE = 100.0

# Cosines and sines of the rotary positions of the patches, [N, D] each.
Rotation = tuple[jax.Array, jax.Array]


def sine_encoding(height: int, width: int, channels: int) -> jnp.ndarray:
  """Encodes every cell of a map by its row and its column.

  Positions count from 1 and are divided by the size, so that the last one is at 2 pi whatever the
  size. Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020.

  Args:
    height: rows of the map.
    width: columns of the map.
    channels: width of the encoding; a multiple of 4.

  Returns:
    [height, width, channels] float32: half of the channels for y, then half for x, in each sine
    and cosine alternating.
  """
  features = channels // 2
  frequency = _TEMPERATURE ** (-2 * (np.arange(features) // 2) / features)

  def encode(size: int) -> np.ndarray:
    angle = np.arange(1, size + 1) / (size + _EPSILON) * 2 * np.pi
    phase = angle[:, None] * frequency  # [size, features]
    return np.where(np.arange(features) % 2, np.cos(phase), np.sin(phase))

  y = np.broadcast_to(encode(height)[:, None], (height, width, features))
  x = np.broadcast_to(encode(width)[None], (height, width, features))
  return jnp.asarray(np.concatenate([y, x], axis=-1), jnp.float32)


def rotary_positions(
  height: int, width: int, head_dim: int, rescale: jax.Array | float = 1.0
) -> Rotation:
  """Cosines and sines of the angles by which patches turn their queries and keys.

  Args:
    height: rows of patches.
    width: columns of patches.
    head_dim: D, a multiple of 4.
    rescale: factor of all coordinates.

  Returns:
    Two [height * width, D] float32, patches row by row; a half of D repeats the other, and holds
    the angles of the rows, then those of the columns.
  """
  frequency = _ROTARY_BASE ** -(np.arange(head_dim // 4) / (head_dim // 4))
  centres = [(np.arange(side) + 0.5) / side * 2 - 1 for side in (height, width)]
  grid = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2, 1)  # [N, 2, 1]
  angles = (2 * np.pi * grid * frequency).reshape(len(grid), -1)  # [N, D / 2]
  angles = rescale * jnp.asarray(np.tile(angles, 2), jnp.float32)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
  """Turns the last tokens, the patches, by their angles; those in front stay as they are.

  Args:
    x: [B, T, heads, D], T at least the number of patches.
    rotation: of N patches, [N, D] each.

  Returns:
    Like x.
  """
  cos, sin = (part[:, None] for part in rotation)  # [N, 1, D]
  prefix, patches = jnp.split(x, [x.shape[1] - len(cos)], axis=1)
  first, second = jnp.split(patches.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first, second], -1) * cos + jnp.concatenate([-second, first], -1) * sin
  return jnp.concatenate([prefix, turned.astype(x.dtype)], axis=1)
