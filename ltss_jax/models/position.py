"""Sine encoding of positions in a feature map, as DETR has it."""

import jax.numpy as jnp
import numpy as np

_TEMPERATURE = 10_000
_EPSILON = 1e-6


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
