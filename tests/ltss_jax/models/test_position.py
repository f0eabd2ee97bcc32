"""Rotary positions, by hand; the sine encoding is tested with Mask2Former."""

import cmath
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.models import position


def angles(height, width, dim, rescale):
  """The published rule, number by number: [height * width, dim]."""
  rows = []
  for y in range(height):
    for x in range(width):
      place = [2 * (y + 0.5) / height - 1, 2 * (x + 0.5) / width - 1]
      half = [
        2 * math.pi * rescale * p * 100 ** (-k / (dim / 4)) for p in place for k in range(dim // 4)
      ]
      rows.append(half + half)
  return np.array(rows)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 5)])
@pytest.mark.parametrize("rescale", [1.0, 1.7])
def test_rotary_positions_are_those_of_a_plain_account(height, width, rescale):
  cos, sin = position.rotary_positions(height, width, 16, rescale)
  expected = angles(height, width, 16, rescale)
  # float32 of angles up to 11.
  np.testing.assert_allclose(cos, np.cos(expected), atol=2e-6)
  np.testing.assert_allclose(sin, np.sin(expected), atol=2e-6)


def test_rotation_turns_pairs_of_the_patches_and_leaves_what_is_in_front():
  """A channel of the first half and its partner of the second are one complex number."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 3 + 10, 2, 8)).astype(np.float32)  # 3 tokens in front, 2 heads
  turned = np.asarray(position.rotate(jnp.asarray(x), position.rotary_positions(2, 5, 8)))
  np.testing.assert_array_equal(turned[:, :3], x[:, :3])
  by = angles(2, 5, 8, 1.0)
  for batch, patch, head, k in np.ndindex(2, 10, 2, 4):
    before = complex(*x[batch, 3 + patch, head, [k, k + 4]])
    expected = before * cmath.exp(1j * by[patch, k])
    after = complex(*turned[batch, 3 + patch, head, [k, k + 4]])
    assert abs(after - expected) < 1e-5
  half = position.rotate(jnp.asarray(x, jnp.bfloat16), position.rotary_positions(2, 5, 8))
  assert half.dtype == jnp.bfloat16
