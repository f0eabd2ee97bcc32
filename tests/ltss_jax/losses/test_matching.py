"""Matching against scipy's total costs, and the check of what a matcher answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from ltss_jax.losses import matching
from tests import programs

match_columns = jax.jit(matching.match, static_argnames=("backend", "num_columns"))
check = jax.jit(matching.check)
BACKENDS = pytest.mark.parametrize("backend", matching.BACKENDS)
# (Q, T): more queries, as many, and more targets; few shapes, as each one is compiled.
SHAPES = [(12, 5), (7, 7), (4, 10), (1, 3), (20, 1)]


def match(costs, valid, backend):
  """Every target once."""
  return match_columns(costs, jnp.asarray(valid, jnp.int32), backend, valid.shape[1])


def problems(rng, num_queries, num_targets, number=200):
  """Costs of varied scale and sign, a third with ties, and any number of padded targets."""
  costs = rng.standard_normal((number, num_queries, num_targets))
  costs *= 10 ** rng.uniform(-2, 3, (number, 1, 1))
  costs[: number // 3] = rng.integers(-2, 3, costs[: number // 3].shape)
  valid = rng.random((number, num_targets)) < rng.uniform(0, 1.2, (number, 1))
  return costs.astype(np.float32), valid


def assert_optimal(costs, valid, target_of_query, rtol):
  """Every problem is solved at scipy's total cost, by valid pairs only."""
  target_of_query, invalid = check(target_of_query, valid.astype(np.int32))
  assert invalid == 0
  for cost, present, target in zip(costs, valid, np.asarray(target_of_query), strict=True):
    best = cost[:, present][scipy.optimize.linear_sum_assignment(cost[:, present])]
    matched = np.flatnonzero(target >= 0)
    assert len(matched) == len(best)
    # A cost may be large and their sum small.
    scale = np.abs(cost).max(initial=1e-9, where=present) * max(1, len(best))
    total = cost[matched, target[matched]].sum(dtype=np.float64)
    np.testing.assert_allclose(total, best.sum(dtype=np.float64), rtol=0, atol=rtol * scale)


@BACKENDS
@pytest.mark.parametrize("num_queries,num_targets", SHAPES)
def test_total_cost_equals_scipys_on_1000_problems(backend, num_queries, num_targets):
  costs, valid = problems(np.random.default_rng(num_queries), num_queries, num_targets)
  answer = match(costs, valid, backend=backend)
  assert answer.shape == costs.shape[:2] and answer.dtype == jnp.int32
  # optax sums float32 potentials: round-off relative to the largest cost. scipy is exact.
  assert_optimal(costs, valid, answer, rtol=1e-6)


@BACKENDS
def test_by_hand(backend):
  costs = jnp.array([[[1.0, 9.0, -5.0], [0.0, 1.0, -5.0]]])
  # The third target is padding, however cheap. Query 1 takes target 1, though 0 would be cheaper.
  valid = jnp.array([[True, True, False]])
  np.testing.assert_array_equal(match(costs, valid, backend=backend), [[0, 1]])


@BACKENDS
def test_costs_that_are_no_numbers_are_the_last_to_be_chosen(backend):
  costs = np.ones((3, 3, 2), np.float32)
  costs[0, 0] = np.nan
  costs[1, :2] = np.inf, -np.inf
  costs[2] = np.nan
  valid = np.ones((3, 2), bool)
  answer = np.asarray(match(costs, valid, backend=backend))
  assert answer[0, 0] == -1 and sorted(answer[0, 1:]) == [0, 1]
  assert answer[1, 2] >= 0
  assert all(sorted(row) == [-1, 0, 1] for row in answer)


@BACKENDS
def test_no_targets(backend):
  costs, valid = np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), bool)
  np.testing.assert_array_equal(match(costs, valid, backend=backend), np.full((2, 3), -1))


def test_accelerators_call_back_for_the_same_answers():
  costs, valid = problems(np.random.default_rng(0), 60, 25, number=4)
  repeats = valid.astype(np.int32)
  answer = jax.jit(matching._call_back)(costs, repeats)
  np.testing.assert_array_equal(answer, matching.solve_with_scipy(costs, repeats))


MANY_CALLS = """
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec
from ltss_jax.losses import matching

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
mix = np.ones((64, 64), np.float32) / 64
solve = lambda costs, repeats: matching.match(
  jax.numpy.sin(costs) @ mix + costs, repeats, "scipy", 64
)
solve = jax.jit(jax.shard_map(
  solve, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")
))
costs = jax.numpy.asarray(np.random.default_rng(0).random((40, 100, 64), np.float32))
for i in range(60):
  answer = solve(costs + i, np.ones((40, 64), np.int32))
print(jax.block_until_ready(answer).shape)
"""


@pytest.mark.slow
def test_calls_of_several_cpu_devices_do_not_wait_for_each_other():
  """As callbacks of JAX, most runs of this stood still after a few calls."""
  env = programs.environment(devices=4, JAX_PLATFORMS="cpu")
  # It takes some three seconds.
  done = programs.run("-c", MANY_CALLS, env=env, timeout=120, check=True)
  assert done.stdout == "(40, 100)\n"


def test_an_unknown_backend_is_refused():
  with pytest.raises(ValueError, match="'lap'; set it to scipy or optax"):
    matching.match(jnp.zeros((1, 2, 2)), jnp.ones((1, 2), jnp.int32), "lap", 2)


def literal(cost, repeats):
  """The definition: columns repeated in a list, and scipy. Returns (total, sorted pairs)."""
  columns = [t for t, number in enumerate(repeats) for _ in range(number)]
  table = np.array([[row[t] for t in columns] for row in cost]).reshape(len(cost), len(columns))
  query, column = scipy.optimize.linear_sum_assignment(table)
  pairs = sorted((int(q), columns[c]) for q, c in zip(query, column, strict=True))
  return sum(np.float64(cost[q, t]) for q, t in pairs), pairs


@BACKENDS
def test_repeated_columns_equal_a_literal_list_of_them_on_500_problems(backend):
  rng = np.random.default_rng(7)
  costs = rng.standard_normal((500, 12, 5)).astype(np.float32)  # no ties but of equal columns
  repeats = rng.integers(0, 5, (500, 5)).astype(np.int32)
  repeats[:100] = rng.integers(2, 7, (100, 5))  # up to 30 columns for 12 queries
  surplus = repeats.sum(1) > 12
  assert surplus.sum() > 100 and (repeats.sum(1) < 12).sum() > 100
  answer, invalid = check(match_columns(costs, repeats, backend, 30), repeats)
  assert invalid == 0
  for cost, numbers, target in zip(costs, repeats, np.asarray(answer), strict=True):
    total, pairs = literal(cost, numbers)
    ours = [(q, int(t)) for q, t in enumerate(target) if t >= 0]
    assert ours == pairs
    assert sum(np.float64(cost[q, t]) for q, t in ours) == total


def test_pairs_are_listed_by_target():
  answer = jnp.array([[2, 0, -1, 2, 0, 2], [-1] * 6])
  query, target, rank = matching.list_pairs(answer, 4, 6)
  np.testing.assert_array_equal(query, [[1, 4, 0, 3, 5, -1], [-1] * 6])
  np.testing.assert_array_equal(target, [[0, 0, 2, 2, 2, 0], [0] * 6])
  np.testing.assert_array_equal(rank, [[0, 1, 0, 1, 2, 0], [0] * 6])


@pytest.mark.parametrize(
  "answer",
  [[0, 0, -1], [0, -1, -1], [0, 2, 1], [0, 1, 3], [0, 4, -1], [0, 1, -7], [2, 1, -1], [9, 9, 9]],
  ids=["twice", "missing", "too many", "padded", "beyond", "negative", "wrong", "garbage"],
)
def test_an_answer_that_is_no_assignment_is_counted_and_dropped(answer):
  repeats = jnp.array([[1, 1, 0, 0]] * 2)
  good = [-1, 1, 0]
  targets, invalid = check(jnp.array([answer, good]), repeats)
  assert invalid == 1
  np.testing.assert_array_equal(targets, [[-1] * 3, good])


@pytest.mark.parametrize("answer,bad", [([0, 0, 1], 0), ([0, 0, 0], 1), ([0, 1, -1], 1)])
def test_a_target_is_matched_as_often_as_its_columns_allow(answer, bad):
  assert check(jnp.array([answer]), jnp.array([[2, 1]]))[1] == bad
