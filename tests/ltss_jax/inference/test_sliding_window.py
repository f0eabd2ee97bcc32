"""Sliding windows against a plain loop over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from ltss_jax import architectures
from ltss_jax.inference import sliding_window

NUM_CLASSES = 5


def window_architecture():
  """Scores that see the whole window: a pixel's colour, less the mean of its window."""

  def predict(params, stats, image):
    return {"scores": (image - image.mean((1, 2), keepdims=True)) @ params}

  def score_blocks(prediction, size):
    assert prediction["scores"].shape[:2] == size
    return lambda start, count: jax.lax.dynamic_slice_in_dim(
      prediction["scores"], start, count, axis=-1
    )

  return architectures.Architecture(NUM_CLASSES, None, predict, score_blocks)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_every_pixel_is_in_a_window_inside_the_image(height, width, window, stride):
  starts = sliding_window.strided(window, min(stride, window))
  corners = sliding_window.window_corners(height, width, starts)
  seen = np.zeros((height, width), int)
  for top, left in corners:
    assert top + min(window, height) <= height and left + min(window, width) <= width
    seen[top : top + window, left : left + window] += 1
  assert seen.min() >= 1 and tuple(corners[0]) == (0, 0)
  assert len({tuple(corner) for corner in corners}) == len(corners)


def test_corners_by_hand():
  corners = sliding_window.window_corners(10, 8, sliding_window.strided(8, 5))
  np.testing.assert_array_equal(corners, [(0, 0), (2, 0)])


@pytest.mark.parametrize("size", [(10, 17), (6, 17), (5, 6)])
def test_scores_are_means_over_the_windows(size):
  starts = sliding_window.strided(8, 5)
  model = sliding_window.over_windows(window_architecture(), 8, starts)
  params = jax.random.normal(jax.random.key(1), (3, NUM_CLASSES))
  image = jax.random.normal(jax.random.key(0), (2, *size, 3))
  total, times = np.zeros((2, *size, NUM_CLASSES)), np.zeros(size)
  for top, left in sliding_window.window_corners(*size, starts):
    at = slice(top, top + 8), slice(left, left + 8)
    crop = np.asarray(image)[:, *at]
    total[:, *at] += (crop - crop.mean((1, 2), keepdims=True)) @ np.asarray(params)
    times[at] += 1
  predictions = model.predict(params, None, image)

  @jax.jit
  def scores(prediction, start):
    return model.score_blocks(prediction, size)(start, 3)

  for row in range(2):
    prediction = jax.tree.map(lambda x, row=row: x[row], predictions)
    for start in (0, 2):
      block = scores(prediction, jnp.int32(start))
      expected = (total[row] / times[..., None])[..., start : start + 3]
      # Float32 sums of up to four windows against float64.
      np.testing.assert_allclose(block, expected, atol=1e-5)
