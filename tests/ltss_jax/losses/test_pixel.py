"""Pixel losses against numpy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from ltss_jax.losses import pixel


def test_cross_entropy_by_hand():
  logits = jnp.array([[0.0, 0.0], [np.log(3.0), 0.0], [100.0, 0.0]])
  label = jnp.array([1, 0, 255], jnp.uint8)
  loss = pixel.cross_entropy(logits, label, ignore_label=255)
  np.testing.assert_allclose(loss, [np.log(2), np.log(4 / 3), 0.0], rtol=1e-6)


def test_ignored_pixels_have_no_gradient_and_bfloat16_is_computed_in_float32():
  logits = jnp.array([[1.0, 2.0], [3.0, 4.0]], jnp.bfloat16)
  label = jnp.array([65535, 0], jnp.uint16)
  total = lambda x: pixel.cross_entropy(x, label, ignore_label=65535).sum()  # noqa: E731
  assert total(logits).dtype == jnp.float32
  gradient = jax.grad(total)(logits)
  np.testing.assert_array_equal(gradient[0], [0, 0])
  # bfloat16 keeps 8 bits: 0.4 % of 0.731.
  np.testing.assert_allclose(gradient[1].astype(np.float32), [-0.731, 0.731], rtol=5e-3)


# Few sizes and fractions, as each one is compiled.
values = hnp.arrays(
  np.float32,
  st.sampled_from([1, 8, 60]),
  elements=st.floats(0, 2.0**90, width=32, allow_subnormal=False),
)
kth_largest = jax.jit(pixel.kth_largest)
hard_pixel_mean = jax.jit(pixel.hard_pixel_mean, static_argnums=1)


@given(values, st.data())
def test_kth_largest_is_what_sorting_gives(x, data):
  k = data.draw(st.integers(1, len(x)))
  assert kth_largest(x, k) == np.sort(x)[::-1][k - 1]


@given(values, st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_hard_pixel_mean_is_the_mean_of_the_largest(x, fraction):
  k = max(1, int(fraction * len(x)))
  expected = np.sort(x.astype(np.float64))[::-1][:k].mean()
  # Sums of up to 60 float32.
  assert float(hard_pixel_mean(x, fraction)) == pytest.approx(expected, rel=1e-5)


def test_hard_pixel_gradient_is_shared_by_ties():
  x = jnp.array([5.0, 1.0, 3.0, 3.0, 0.0])
  gradient = jax.grad(lambda x: pixel.hard_pixel_mean(x, 0.4))(x)  # k = 2: the 5 and one of the 3s
  np.testing.assert_allclose(gradient, [0.5, 0, 0.25, 0.25, 0])


def test_all_pixels_ignored_is_zero_and_finite():
  value, gradient = jax.value_and_grad(lambda x: pixel.hard_pixel_mean(x, 0.2))(jnp.zeros(50))
  assert value == 0
  assert np.isfinite(gradient).all()
