"""A model that takes squares alone, and a plain account of its scores on images of any size."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax import architectures

SIDE, NUM_CLASSES, _CELL = 128, 5, 4
# What a colour says of every class. Large, so that a score is far from a half and ties are rare.
WEIGHTS = np.random.default_rng(4).normal(size=(3, NUM_CLASSES)).astype(np.float32) * 3


def architecture() -> architectures.Architecture:
  """Logits of cells of 4 px that depend on the whole square and the place in it.

  Its params are `WEIGHTS`, its stats {}. It fails at any other size than 128 px.
  """

  def predict(params, stats, image):
    assert image.shape[1:3] == (SIDE, SIDE) and not stats
    count = SIDE // _CELL
    cells = image.reshape(image.shape[0], count, _CELL, count, _CELL, 3).mean((2, 4))
    cells = (cells - image.mean((1, 2), keepdims=True)) @ params  # [B, S / 4, S / 4, C]
    return {"logits": cells + jnp.linspace(-1, 1, count)[:, None, None]}

  def score_blocks(prediction, size):
    assert size == (SIDE, SIDE)

    def block(start, count):
      logits = jax.lax.dynamic_slice_in_dim(prediction["logits"], start, count, axis=-1)
      return jax.nn.sigmoid(jax.image.resize(logits, (*size, count), "bilinear"))

    return block

  return architectures.Architecture(NUM_CLASSES, None, predict, score_blocks, input_side=SIDE)


def bilinear(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """[h, w, C] -> [height, width, C], half-pixel centres, without anti-aliasing."""
  for axis, side in enumerate((height, width)):
    length = x.shape[axis]
    place = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
    low = place.astype(int)
    weight = np.expand_dims(place - low, [i for i in range(3) if i != axis])
    high = x.take(np.minimum(low + 1, length - 1), axis)
    x = x.take(low, axis) * (1 - weight) + high * weight
  return x


def scores_of_window(window: np.ndarray) -> np.ndarray:
  """The model's scores in float64: normalised [128, 128, 3] -> [128, 128, C]."""
  count = SIDE // _CELL
  cells = window.reshape(count, _CELL, count, _CELL, 3).mean((1, 3))
  logits = (cells - window.mean((0, 1))) @ WEIGHTS.astype(np.float64)
  logits += np.linspace(-1, 1, count)[:, None, None]
  return 1 / (1 + np.exp(-bilinear(logits, SIDE, SIDE)))


def window_starts(side: int) -> list[int]:
  """The published placement along one axis."""
  count = max(1, math.ceil(side / SIDE))
  overlap = (count * SIDE - side) / (count - 1) if count > 1 else 0
  return [int(j * (SIDE - overlap)) for j in range(count)]


def scores(image: np.ndarray) -> np.ndarray:
  """The mean scores of all windows of one image: uint8 [h, w, 3] -> float64 [h, w, C]."""
  height, width = image.shape[:2]
  pixels = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
  below, right = max(0, SIDE - height), max(0, SIDE - width)
  pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)))
  total, times = np.zeros((*pixels.shape[:2], NUM_CLASSES)), np.zeros((*pixels.shape[:2], 1))
  for top in window_starts(height):
    for left in window_starts(width):
      at = slice(top, top + SIDE), slice(left, left + SIDE)
      total[at] += scores_of_window(pixels[at])
      times[at] += 1
  assert times.min() >= 1
  return (total / times)[:height, :width]
