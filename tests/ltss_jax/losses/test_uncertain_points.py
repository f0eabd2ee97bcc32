"""The most uncertain points: the choice against a stable sort, and the order of its other form."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, strategies as st

from ltss_jax.losses import points, uncertain_points

most_uncertain = jax.jit(uncertain_points.most_uncertain, static_argnums=1)
kth_smallest = jax.jit(uncertain_points.kth_smallest)


# Few sizes, as each one is compiled; the last is beyond one group of `_rank`.
@given(
  seed=st.integers(0, 2**32 - 1),
  size_and_number=st.sampled_from([(1, 1), (60, 17), (60, 60), (2500, 600)]),
  levels=st.sampled_from([2, 30, 10**6]),
)
def test_the_choice_is_that_of_a_stable_sort(seed, size_and_number, levels):
  size, number = size_and_number
  rng = np.random.default_rng(seed)
  logits = rng.integers(-levels, levels, (3, size)) * np.float32(rng.choice([1e-30, 1e-3, 1e30]))
  logits[0, rng.integers(size)] = rng.choice([np.inf, -np.inf, 0, -0.0])
  order = np.argsort(np.abs(logits), axis=1, kind="stable")[:, :number]
  chosen = most_uncertain(logits.astype(np.float32), number)
  np.testing.assert_array_equal(chosen, np.sort(order, axis=1))


def test_points_without_a_number_are_chosen_last():
  logits = np.array([[np.nan, 2, -np.nan, -np.inf, 1]], np.float32)
  np.testing.assert_array_equal(most_uncertain(logits, 3), [[1, 3, 4]])
  np.testing.assert_array_equal(most_uncertain(logits, 4), [[0, 1, 3, 4]])


@given(seed=st.integers(0, 2**32 - 1), top=st.sampled_from([1, 9, 2**31 - 1]))
def test_kth_smallest_equals_a_sort(seed, top):
  rng = np.random.default_rng(seed)
  values = rng.integers(0, top, (4, 30), endpoint=True, dtype=np.int32)
  k = rng.integers(1, 30, (4, 1), endpoint=True)
  expected = np.take_along_axis(np.sort(values, 1), k - 1, 1)
  np.testing.assert_array_equal(kth_smallest(values, k), expected)


@jax.jit
def both_joins(seed):
  """Drawn candidates and fresh points, joined in either form."""
  keys = jax.random.split(jax.random.key(seed), (2, 3))
  draw = jax.vmap(points.draw, (0, None))
  candidates, fresh = draw(keys[0], 90), draw(keys[1], 11)
  # The last point of all, which has the key of what is not chosen.
  candidates = jax.tree.map(
    lambda x: x.at[:, 7:9].set(points.coordinate(jnp.uint32(65535))), candidates
  )
  logits = jnp.round(4 * jax.vmap(lambda key: jax.random.normal(key, (90,)))(keys[0]))
  in_place = uncertain_points.join_points(
    candidates, uncertain_points.most_uncertain(logits, 33), fresh
  )
  chosen = uncertain_points.most_uncertain_flags(logits, 33)
  return in_place, uncertain_points.join_in_rows(candidates, chosen, fresh, 33)


@given(seed=st.integers(0, 2**32 - 1))
def test_both_forms_choose_the_same_points(seed):
  (x, y), (x_by_row, y_by_row) = both_joins(seed)
  assert (np.diff(y_by_row) >= 0).all()
  for mask in range(3):
    expected = sorted(zip(y[mask].tolist(), x[mask].tolist(), strict=True))
    found = zip(y_by_row[mask].tolist(), x_by_row[mask].tolist(), strict=True)
    assert list(found) == expected
