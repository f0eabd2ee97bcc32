"""Pixel losses against numpy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from ltss_jax.losses import class_losses, pixel
from tests import recipes


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


every_loss = pytest.mark.parametrize("name", class_losses.CLASS_LOSSES)
COUNTS = np.array([5000, 70, 3, 0])


@every_loss
def test_ignored_pixels_count_for_nothing_in_any_loss(name):
  loss = recipes.class_loss(name, counts=COUNTS)
  logits = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  label = jnp.array([0, 1, 2, 3, 255, 255, 0, 1, 2] * 2, jnp.uint8).reshape(2, 3, 3)

  def values(logits, label):
    return pixel.class_loss(loss, logits, label, 255, jnp.asarray(COUNTS))

  some = values(logits, label)
  assert some.dtype == jnp.float32 and (some[label == 255] == 0).all()
  assert (some[label != 255] > 0).all()
  gradient = jax.grad(lambda x: values(x, label).sum())(logits)
  assert (gradient[label == 255] == 0).all() and np.isfinite(gradient).all()
  ignored = jnp.full_like(label, 255)
  total, gradient = jax.value_and_grad(lambda x: values(x, ignored).sum())(logits)
  assert total == 0 and (gradient == 0).all()


@every_loss
def test_hard_pixel_mining_stands_on_every_loss(name):
  loss = recipes.class_loss(name, counts=COUNTS)
  # Certain answers as well: their loss is 0, which mining must not take for negative.
  logits = 30 * jax.random.normal(jax.random.key(0), (200, 4))
  label = jax.random.randint(jax.random.key(1), (200,), 0, 4)
  values = pixel.class_loss(loss, logits, label, 255, jnp.asarray(COUNTS))
  assert not np.signbit(values).any()
  expected = np.sort(np.asarray(values, np.float64))[-40:].mean()
  np.testing.assert_allclose(hard_pixel_mean(values, 0.2), expected, rtol=1e-5)  # 40 float32


@every_loss
def test_losses_say_whether_they_favour_rare_classes(name):
  """One that does pulls a rare class up more than a frequent one, from equal logits."""
  loss = recipes.class_loss(name, counts=COUNTS)
  frequent, rare = (
    jax.grad(lambda x: pixel.class_loss(loss, x, label, 255, jnp.asarray(COUNTS)).sum())(  # noqa: B023
      jnp.zeros((1, 4))
    )[0, label[0]]
    for label in (jnp.array([0]), jnp.array([2]))
  )
  assert frequent < 0
  if loss.favours_rare_classes:
    assert rare < 1.05 * frequent
  else:
    np.testing.assert_allclose(rare, frequent, rtol=1e-6)


def test_seesaw_needs_counts():
  with pytest.raises(ValueError, match="needs `counts`"):
    pixel.class_loss(recipes.class_loss("seesaw"), jnp.zeros((1, 2)), jnp.zeros(1), 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_label_counts_are_those_of_numpy(dtype):
  ignore_label = 255 if dtype == np.uint8 else 65535
  label = np.random.default_rng(0).integers(0, 7, (3, 5, 4)).astype(dtype)
  label[:, :2] = ignore_label
  counts = jax.jit(pixel.label_counts, static_argnums=1)(label, 9)
  assert counts.dtype == jnp.float32
  np.testing.assert_array_equal(counts, np.bincount(label[:, 2:].ravel(), minlength=9))


def test_auxiliary_loss_is_the_mean_at_full_size():
  # 24 rows are three bands, whose borders must not show; 6 rows are bands of two.
  for height, width, scale in ((24, 5, 4), (6, 3, 2)):
    keys = jax.random.split(jax.random.key(height), 2)
    logits = jax.random.normal(keys[0], (2, height, width, 3))
    label = jax.random.randint(keys[1], (2, scale * height, scale * width), 0, 3)
    label = jnp.where(jnp.arange(scale * width) < 3, 255, label).astype(jnp.uint8)

    def whole(logits, label=label):
      shape = (*label.shape, 3)
      full = jax.image.resize(logits, shape, "bilinear", antialias=False)
      return pixel.cross_entropy(full, label, 255).sum() / (label != 255).sum()

    ours = jax.value_and_grad(lambda x: pixel.auxiliary_loss(x, label, 255))(logits)  # noqa: B023
    expected = jax.value_and_grad(whole)(logits)
    # The same float32 terms, summed in another order.
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-7)


def test_auxiliary_loss_by_hand():
  logits = jnp.log(jnp.tile(jnp.array([1.0, 3.0], jnp.bfloat16), (1, 1, 2, 1)))
  label = jnp.array([[[0, 1, 255, 255], [1, 1, 255, 255]]], jnp.uint8)
  value = pixel.auxiliary_loss(logits, label, 255)
  assert value.dtype == jnp.float32
  # -log 1/4 once and -log 3/4 three times; log 3 in bfloat16 is off by 0.1 %.
  np.testing.assert_allclose(value, (np.log(4) + 3 * np.log(4 / 3)) / 4, rtol=1e-3)


def test_auxiliary_loss_without_labels_is_zero_and_other_sizes_are_refused():
  ignored = jnp.full((1, 8, 8), 255, jnp.uint8)
  loss = lambda x: pixel.auxiliary_loss(x, ignored, 255)  # noqa: E731
  value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 2, 2, 3)))
  assert value == 0 and (gradient == 0).all()
  with pytest.raises(ValueError, match=r"\(8, 8\) pixels do not fit logits of \(3, 2\)"):
    loss(jnp.ones((1, 3, 2, 3)))
