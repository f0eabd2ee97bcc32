"""Sliding windows against a plain loop over them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from ltss_jax import architectures
from ltss_jax.inference import sliding_window
from tests import square_model

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
  strided = sliding_window.strided(window, min(stride, window))
  check_corners(height, width, window, strided)
  check_corners(height, width, window, sliding_window.spread(window))


def check_corners(height, width, window, starts):
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


@pytest.mark.parametrize(
  ("window", "side", "expected"),
  [
    (8, 8, [0]),
    (8, 5, [0]),
    (8, 9, [0, 1]),
    (4, 10, [0, 3, 6]),  # overlap (12 - 10) / 2 = 1
    (4, 9, [0, 2, 5]),  # 1.5: 2.5 is cut off to 2
    (128, 173, [0, 45]),
    (512, 1024, [0, 512]),
    (512, 1025, [0, 256, 513]),
    # 4 windows overlap by (896 - 675) / 3; 3 * (224 - 73.67) is 450.99... in floating point.
    (224, 675, [0, 150, 300, 451]),
  ],
)
def test_spread_windows_by_hand(window, side, expected):
  starts = sliding_window.spread(window)(side)
  assert starts.dtype == np.int32
  np.testing.assert_array_equal(starts, expected)


@given(st.integers(1, 700), st.integers(1, 5000))
def test_spread_windows_are_those_of_the_release_and_end_at_the_border(window, side):
  starts = sliding_window.spread(window)(side)
  count = math.ceil(side / window)
  overlap = (count * window - side) / (count - 1) if count > 1 else 0
  released = [int(i * (window - overlap)) for i in range(count)]
  np.testing.assert_array_equal(starts[:-1], released[:-1])
  # Where it is not at the border, rounding has put it a pixel before.
  assert starts[-1] == max(side - window, 0) and starts[-1] - released[-1] in (0, 1)
  assert np.diff(starts).max(initial=0) <= window


def test_a_grid_of_spread_windows_by_hand():
  corners = sliding_window.window_corners(9, 10, sliding_window.spread(8))
  np.testing.assert_array_equal(corners, [(0, 0), (0, 2), (1, 0), (1, 2)])


def test_a_model_of_any_size_stays_as_it_is():
  architecture = window_architecture()
  assert sliding_window.any_size(architecture) is architecture
  assert sliding_window.padded_size(architecture, (7, 300)) == (7, 300)


@pytest.mark.parametrize(
  "size", [(128, 128), (128, 173), (300, 128), (97, 131), (60, 50), (290, 257)]
)
def test_squares_see_any_image_in_windows(size):
  image = np.random.default_rng(2).integers(0, 256, (2, *size, 3), dtype=np.uint8)
  model = sliding_window.any_size(square_model.architecture())
  assert model.input_side == 0

  @jax.jit
  def scores(image, start):
    prediction = model.predict(square_model.WEIGHTS, {}, architectures.normalize(image))
    return [
      model.score_blocks(jax.tree.map(lambda x, row=row: x[row], prediction), size)(start, 3)
      for row in range(2)
    ]

  for start in (0, 2):
    for one, block in zip(image, scores(image, start), strict=True):
      expected = square_model.scores(one)[..., start : start + 3]
      # Float32 logits of up to 10, whose mean over the window is taken off, against float64.
      np.testing.assert_allclose(block, expected, atol=2e-5)


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
