"""The blockwise resize + argmax against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from ltss_jax import resize_labels


@given(st.sampled_from([1, 7, 40]), st.sampled_from([1, 5, 40, 90]))
def test_taps_are_half_pixel_bilinear(in_size, out_size):
  low, weight = resize_labels.bilinear_taps(in_size, out_size, out_size + 3)
  x = np.random.default_rng(0).normal(size=in_size).astype(np.float32)
  ours = (1 - weight) * x[low] + weight * x[np.minimum(low + 1, in_size - 1)]
  judge = jax.image.resize(jnp.array(x), (out_size,), "bilinear", antialias=False)
  # Weights are rounded to float32 on both sides, from positions up to 90.
  np.testing.assert_allclose(ours[:out_size], judge, atol=2e-5)


@pytest.mark.parametrize("block_values", [1 << 26, 500])
def test_labels_of_different_sizes_in_one_batch(monkeypatch, block_values):
  monkeypatch.setattr(resize_labels, "_BLOCK_VALUES", block_values)
  scores = jax.random.normal(jax.random.key(0), (2, 16, 24, 7))
  sizes, padded = [(37, 50), (12, 64)], (48, 64)
  rows, columns = (
    tuple(
      np.stack(x)
      for x in zip(
        *[
          resize_labels.bilinear_taps(scores.shape[1 + axis], size[axis], padded[axis])
          for size in sizes
        ],
        strict=True,
      )
    )
    for axis in (0, 1)
  )
  labels = jax.jit(resize_labels.resized_argmax)(scores, rows, columns)
  assert labels.shape == (2, *padded)
  assert labels.dtype == jnp.uint16
  for i, (height, width) in enumerate(sizes):
    judge = jax.image.resize(scores[i], (height, width, 7), "bilinear", antialias=False)
    # Scores that differ by round-off only may win on either side: none does with this seed.
    np.testing.assert_array_equal(labels[i, :height, :width], judge.argmax(-1))
