"""Points: sampling against torch, label maps against explicit masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ltss_jax.losses import points
from ltss_jax.losses.points import Points

draw = jax.jit(points.draw, static_argnums=1)
sample = jax.jit(points.sample)
label_values = jax.jit(lambda labels, *rest: points.label_values(points.label_maps(labels), *rest))


def random_points(seed, number=64, outside=0.3):
  """Points in the map and around it, its borders and corners among them."""
  rng = np.random.default_rng(seed)
  x, y = rng.uniform(-outside, 1 + outside, (2, number)).astype(np.float32)
  x[:4], y[:4] = [0, 1, 0, 1], [0, 0, 1, 1]
  return Points(jnp.asarray(x), jnp.asarray(y))


def by_hand(image, x, y):
  """Bilinear value in float64, one point after the other, zero outside."""
  height, width = image.shape
  values = np.zeros(len(x))
  for k, (column, row) in enumerate(
    zip(np.float64(x) * width, np.float64(y) * height, strict=True)
  ):
    for i in range(height):
      for j in range(width):
        hat = max(0, 1 - abs(row - 0.5 - i)) * max(0, 1 - abs(column - 0.5 - j))
        values[k] += hat * image[i, j]
  return values


def test_draws_fill_the_square_evenly_and_anew_for_every_key():
  x, y = draw(jax.random.key(0), 20000)
  assert min(x.min(), y.min()) > 0 and max(x.max(), y.max()) < 1
  counts = np.histogram2d(x, y, bins=10, range=[(0, 1), (0, 1)])[0]
  # 200 expected in each cell, with a standard deviation of 14: five of them.
  assert np.abs(counts - 200).max() < 70
  assert abs(np.corrcoef(x, y)[0, 1]) < 5 / 20000**0.5
  assert np.mean(x == draw(jax.random.key(1), 20000).x) < 1e-3


@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (4, 1)])
def test_samples_are_products_of_hat_functions(shape):
  image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  at = random_points(1)
  # Positions have round-off of 1e-7 times the side, values that of float32 sums of four.
  np.testing.assert_allclose(sample(image, at), by_hand(image, *at), atol=3e-6)


def test_far_points_get_nothing_and_channels_are_sampled_alike():
  image = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
  far = Points(jnp.array([-9.0, 9.0, 0.5, 0.5]), jnp.array([0.5, 0.5, -9.0, 9.0]))
  np.testing.assert_array_equal(sample(image, far), np.zeros((4, 3)))
  at = random_points(2)
  each = np.stack([sample(image[..., c], at) for c in range(3)], -1)
  # The same sums, which a compiler may round in another order.
  np.testing.assert_allclose(sample(image, at), each, atol=1e-6)


def test_samples_and_gradients_equal_torchs_grid_sample():
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  image, at = rng.standard_normal((9, 5)).astype(np.float32), random_points(3, 300)
  cotangent = rng.standard_normal(300).astype(np.float32)
  values, transpose = jax.vjp(lambda image: points.sample(image, at), image)
  theirs = torch.tensor(image, requires_grad=True)
  grid = 2 * torch.tensor(np.stack(at, -1)) - 1
  expected = torch.nn.functional.grid_sample(
    theirs[None, None], grid[None, None], align_corners=False
  )[0, 0, 0]
  expected.backward(torch.tensor(cotangent))
  # Round-off of positions up to 9 pixels, and of sums over some ten points a pixel.
  np.testing.assert_allclose(values, expected.detach(), atol=5e-6)
  np.testing.assert_allclose(transpose(cotangent)[0], theirs.grad, atol=3e-5)


@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([np.uint8, np.uint16, np.int32]))
@settings(max_examples=30)
def test_label_values_equal_samples_of_the_binary_masks(seed, dtype):
  rng = np.random.default_rng(seed)
  ignore = -1 if dtype == np.int32 else np.iinfo(dtype).max
  labels = rng.choice(np.array([0, 3, 4, ignore], dtype), (2, 6, 8))
  classes, at = np.array([3, 0, 7, 4], np.int32), random_points(seed)
  for image in range(2):
    values = label_values(labels, image, classes, at)  # [K, T]
    for column, c in zip(values.T, classes, strict=True):
      mask = (labels[image] == c).astype(np.float32)
      # The same formula with the same weights.
      np.testing.assert_allclose(column, sample(mask, at), atol=1e-6)
    assert values.min() >= 0 and values.max() <= 1 + 1e-6  # four float32 weights
    # Compiled for one class, a product and a sum may become one operation, which rounds once.
    one = label_values(labels, image, classes[1], at)
    np.testing.assert_allclose(one, values[:, 1], rtol=0, atol=2.0**-22)


def test_label_values_equal_torchs_grid_sample_of_the_masks():
  torch = pytest.importorskip("torch")
  labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (1, 11, 6))
  classes, at = np.array([0, 1, 2], np.int32), random_points(4, 200)
  masks = torch.tensor((labels == classes[:, None, None]).astype(np.float32))
  grid = 2 * torch.tensor(np.stack(at, -1)) - 1
  expected = torch.nn.functional.grid_sample(masks[None], grid[None, None], align_corners=False)[
    0, :, 0
  ]
  # Round-off of positions up to 11 pixels.
  np.testing.assert_allclose(label_values(labels, 0, classes, at).T, expected, atol=5e-6)


def test_points_on_ignored_pixels_are_left_out_by_hand():
  label = np.array([[0, 0, 255, 255], [0, 0, 255, 255]], np.uint8)
  # Centres of a labelled and an ignored pixel, a border between the two, one far outside.
  x, y = jnp.array([0.125, 0.875, 0.5, 3.0]), jnp.array([0.25, 0.25, 0.25, 0.25])
  logits, targets = jnp.array([[1.0], [2.0], [3.0], [4.0]]), jnp.array([[1.0], [0.0], [0.5], [0.0]])
  ignored = label_values(label[None], 0, jnp.int32(255), Points(x, y))
  logits, targets, factor = points.leave_out(ignored, logits, targets)
  assert logits[0] == 1 and logits[3] == 4 and targets[0] == 1
  np.testing.assert_array_equal(jax.nn.sigmoid(logits[1:3]), np.zeros((2, 1)))
  np.testing.assert_array_equal(targets[1:3], np.zeros((2, 1)))
  assert factor == 4 / 2


def test_a_mask_without_labelled_points_has_the_factor_0_of_nothing():
  label = np.full((1, 2, 2), 255, np.uint8)
  at = Points(jnp.array([0.25, 0.75]), jnp.array([0.25, 0.75]))
  ignored = label_values(label, 0, jnp.int32(255), at)
  logits, targets, factor = points.leave_out(ignored, jnp.ones(2), jnp.ones(2))
  softplus = jnp.logaddexp(logits, 0)
  assert float(factor * (softplus - logits * targets).mean()) == 0
