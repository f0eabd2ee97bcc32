"""The blockwise resize + argmax against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from ltss_jax.inference import score_maps


@given(st.sampled_from([1, 7, 40]), st.sampled_from([1, 5, 40, 90]))
def test_weights_are_half_pixel_bilinear(in_size, out_size):
  low, weight = score_maps.interpolation_weights(in_size, out_size, out_size + 3)
  x = np.random.default_rng(0).normal(size=in_size).astype(np.float32)
  ours = (1 - weight) * x[low] + weight * x[np.minimum(low + 1, in_size - 1)]
  judge = jax.image.resize(jnp.array(x), (out_size,), "bilinear", antialias=False)
  # Weights are rounded to float32 on both sides, from positions up to 90.
  np.testing.assert_allclose(ours[:out_size], judge, atol=2e-5)


@pytest.mark.parametrize("classes_at_a_time", [7, 3, 1])
@pytest.mark.parametrize("size", [(37, 50), (12, 64), (16, 24)])
def test_labels_do_not_depend_on_the_blocks(monkeypatch, classes_at_a_time, size):
  scores = jax.random.normal(jax.random.key(0), (16, 24, 7))
  scores = jnp.where(scores < 0, 0, scores)  # equal scores: the first class wins
  pixels = max(16 * 24, size[0] * size[1])
  monkeypatch.setattr(score_maps, "_BLOCK_VALUES", classes_at_a_time * pixels)
  asked = []

  def blocks(start, count):
    asked.append(count)
    return jax.lax.dynamic_slice_in_dim(scores, start, count, axis=-1)

  interpolation = tuple(
    score_maps.interpolation_weights(scores.shape[axis], size[axis], size[axis] + 3)
    for axis in (0, 1)
  )
  label = jax.jit(lambda interpolation: score_maps.argmax(blocks, 7, pixels, interpolation))(
    interpolation
  )
  assert label.dtype == jnp.uint16 and set(asked) == {classes_at_a_time}
  judge = jax.image.resize(scores, (*size, 7), "bilinear", antialias=False)
  # Scores that differ by round-off only may win on either side: none does with this seed.
  np.testing.assert_array_equal(label[: size[0], : size[1]], judge.argmax(-1))


def test_labels_of_the_input_size_need_no_interpolation():
  scores = jax.random.normal(jax.random.key(0), (5, 6, 4))
  label = score_maps.argmax(lambda start, count: scores[..., start : start + count], 4, 30)
  np.testing.assert_array_equal(label, scores.argmax(-1))


def test_blocks_stay_within_the_budget_and_hold_at_least_one():
  assert score_maps.classes_per_block(847, 640 * 480) == (1 << 26) // (640 * 480)
  assert score_maps.classes_per_block(847, 1 << 30) == 1
  assert score_maps.classes_per_block(24, 100 * 100) == 24
  assert score_maps.images_per_block(24, 128 * 128) == (1 << 26) // (24 * 128 * 128)
  assert score_maps.images_per_block(847, 1 << 20) == 1


@pytest.mark.parametrize("classes_at_a_time", [7, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_labels_of_several_score_maps_are_those_of_their_mean(
  monkeypatch, classes_at_a_time, mirrored
):
  size, shapes = (37, 50), [(16, 24), (30, 41)]
  order = np.array([0, 2, 1, 3, 6, 5, 4])
  monkeypatch.setattr(score_maps, "_BLOCK_VALUES", classes_at_a_time * 2 * size[0] * size[1])
  maps, expected = [], 0
  for seed, shape in enumerate(shapes):
    scores = jax.random.normal(jax.random.key(seed), (*shape, 7))
    blocks = score_maps.reordered(
      lambda start, count, scores=scores: jax.lax.dynamic_slice_in_dim(scores, start, count, -1),
      order,
    )
    rows = score_maps.interpolation_weights(shape[0], size[0], size[0])
    columns = score_maps.interpolation_weights(shape[1], size[1], size[1], mirrored)
    maps.append((blocks, (rows, columns)))
    judge = jax.image.resize(scores[..., order], (*size, 7), "bilinear", antialias=False)
    expected += (judge[:, ::-1] if mirrored else judge) / 2
  label = jax.jit(lambda: score_maps.argmax_of_mean(maps, 7, size[0] * size[1]))()
  # Means that differ by round-off only may win on either side: none does with these seeds.
  np.testing.assert_array_equal(label, expected.argmax(-1))
  # Two blends of values up to 4 in float32, in another order.
  np.testing.assert_allclose(score_maps.mean_block(maps, 2, 4), expected[..., 2:6], atol=1e-5)


def test_a_pixel_without_numbers_has_a_class_all_the_same():
  scores = jnp.full((2, 3, 4), jnp.nan)
  label = score_maps.argmax(lambda start, count: scores, 4, 6)
  assert label.max() < 4
