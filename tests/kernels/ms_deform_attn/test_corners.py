"""The corners of a point, by hand and where no pixel is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.ms_deform_attn.corners import corners

HEIGHT, WIDTH = 4, 8


def in_pixels(x, y):
  """Corners of the point (x, y), in pixels from the centre of the first, with weight 1."""
  location = jnp.float32((x + 0.5) / WIDTH), jnp.float32((y + 0.5) / HEIGHT)
  weights, indices = corners(*location, jnp.float32(1), HEIGHT, WIDTH)
  return np.array(weights), np.array(indices)


def test_inside_by_hand():
  """A quarter right of and half below the centre of column 2, row 1."""
  weights, indices = in_pixels(2.25, 1.5)
  np.testing.assert_array_equal(weights, [0.375, 0.125, 0.375, 0.125])
  np.testing.assert_array_equal(indices, [10, 11, 18, 19])


def test_a_pixel_centre_counts_alone():
  weights, indices = in_pixels(7, 3)
  np.testing.assert_array_equal(weights, [1, 0, 0, 0])
  assert indices[0] == 3 * WIDTH + 7


def test_at_the_edge_the_pixels_off_the_map_count_nothing():
  weights, indices = in_pixels(-0.5, 1)
  np.testing.assert_array_equal(weights, [0, 0.5, 0, 0])
  assert indices[1] == WIDTH


@pytest.mark.parametrize("x", [-2, WIDTH + 1, 1e30, -1e30, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("swap", [False, True])
def test_off_the_map_there_is_nothing_and_indices_stay_valid(x, swap):
  point = (1.0, x) if swap else (x, 1.0)
  weights, indices = in_pixels(*point)
  np.testing.assert_array_equal(weights, 0)
  assert indices.dtype == np.int32
  assert np.all((indices >= 0) & (indices < HEIGHT * WIDTH))


def test_sizes_may_be_arrays():
  """The same as one size after the other."""
  rng = np.random.default_rng(0)
  x, y, weight = (jnp.asarray(rng.uniform(-0.2, 1.2, 3), jnp.float32) for _ in range(3))
  sizes = np.array([[1, 1], [4, 8], [7, 5]], np.int32)
  together = corners(x, y, weight, *sizes.T)
  for i, (height, width) in enumerate(sizes.tolist()):
    one = corners(x[i], y[i], weight[i], height, width)
    for all_levels, level in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
      np.testing.assert_array_equal(all_levels[i], level)


def test_derivative_on_a_pixel_centre_is_the_one_to_the_right():
  def weights(x):
    return corners(x, jnp.float32(1.5 / HEIGHT), jnp.float32(1), HEIGHT, WIDTH)[0]

  slopes = jax.jacobian(weights)(jnp.float32(2.5 / WIDTH))
  np.testing.assert_array_equal(slopes, [-WIDTH, WIDTH, 0, 0])
