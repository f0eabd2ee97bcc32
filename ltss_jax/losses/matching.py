"""Hungarian matching of queries and targets: scipy on the host or optax on the device.

A target may take part several times, as in Li et al., "Frequency-based Matcher for Long-tailed
Semantic Segmentation" (IEEE TMM 2024): its column of the cost matrix is repeated, so that it may be
given as many queries.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from ltss_jax.losses import host_function

BACKENDS = ("scipy", "optax")
# What a cost that is no number, or larger than this, counts as. Regular costs are below 1e3, and
# sums over a whole assignment stay finite in float32.
MAX_COST = 1e6
# Under which name XLA's programs for CPUs know `solve_with_scipy`.
_SOLVE = "ltss_jax_least_cost_assignment"


class Pairs(NamedTuple):
  """Matched pairs of N problems, sorted by target.

  Attributes:
    query: [N, S] int32, -1 where there is no pair.
    target: [N, S] int32, 0 where there is no pair.
    rank: [N, S] int32, how many pairs of the same target stand before.
  """

  query: jax.Array
  target: jax.Array
  rank: jax.Array


def match(costs: jax.Array, repeats: jax.Array, backend: str, num_columns: int) -> jax.Array:
  """Assigns the columns of targets to queries, one to one, at the least total cost.

  min(Q, number of columns) pairs are made, so with more columns than queries some targets get fewer
  queries than they have columns, or none. Costs that are not finite are replaced by `MAX_COST`.

  Args:
    costs: [N, Q, T] float32 costs of N independent problems.
    repeats: [N, T] int32, columns of every target; those with 0 are padding and get no query.
    backend: "scipy" solves all problems in one call of the host (inside a fully manual `shard_map`
      each device's host solves its own), "optax" solves them on the device, for where the host
      is not to be called (inside a `shard_map` only with check_vma=False).
    num_columns: the most that the repeats of a problem add up to, which is what "optax" computes
      with; columns beyond it would be left out.

  Returns:
    [N, Q] int32, the target of each query, -1 where it has none.

  Raises:
    ValueError: for an unknown backend.
  """
  costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
  costs = jnp.nan_to_num(costs, nan=MAX_COST, posinf=MAX_COST, neginf=MAX_COST)
  costs = jnp.clip(costs, -MAX_COST, MAX_COST)
  if backend == "scipy":
    return _call_host(costs, repeats)
  if backend == "optax":
    return jax.vmap(lambda *x: _solve_on_device(*x, num_columns))(costs, repeats)
  raise ValueError(f"matcher is {backend!r}; set it to {' or '.join(BACKENDS)}")


def _call_host(costs: jax.Array, repeats: jax.Array) -> jax.Array:
  """Scipy's answers; the host repeats the columns, so that what travels does not grow with them.

  A program for CPUs calls scipy through XLA's own interface: it can be kept in the cache of
  compiled programs, which JAX's callbacks keep it out of, and waits for no other thread.
  """
  of_cpu = jax.ffi.ffi_call(_SOLVE, _answer_of(costs))
  return jax.lax.platform_dependent(costs, repeats, cpu=of_cpu, default=_call_back)


def _call_back(costs: jax.Array, repeats: jax.Array) -> jax.Array:
  """`_call_host` for accelerators, whose memory the host cannot read."""
  solve = lambda *problems: solve_with_scipy(*map(np.asarray, problems))  # noqa: E731
  return jax.pure_callback(solve, _answer_of(costs), costs, repeats)


def _answer_of(costs: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(costs.shape[:2], jnp.int32)


def solve_with_scipy(costs: np.ndarray, repeats: np.ndarray) -> np.ndarray:
  """Least-cost assignments of independent problems.

  Args:
    costs: [N, Q, T] finite float32.
    repeats: [N, T] int32, columns of every target.

  Returns:
    [N, Q] int32, the target of each query, -1 where it has none.
  """
  target_of_query = np.full(costs.shape[:2], -1, np.int32)
  for answer, cost, numbers in zip(target_of_query, costs, repeats, strict=True):
    target_of_column = np.repeat(np.arange(len(numbers)), numbers)
    query, column = scipy.optimize.linear_sum_assignment(cost[:, target_of_column])
    answer[query] = target_of_column[column]
  return target_of_query


host_function.register(_SOLVE, solve_with_scipy)


def _solve_on_device(cost: jax.Array, repeats: jax.Array, num_columns: int) -> jax.Array:
  """Optax's answer to one problem.

  The columns stand side by side, those beyond the sum of the repeats are padding. As many stand-in
  queries as columns are added. Each padded column has one that is cheapest for it alone, which the
  algorithm finds in one step (with padding that costs the same everywhere, 10 targets padded to 64
  took 17 times as long). All else that is no real pair costs the same, and more than any real pair,
  so a real column gets a stand-in only where no query is left.
  """
  num_queries, num_targets = cost.shape
  ends = jnp.cumsum(repeats)
  column = jnp.arange(num_columns)
  # Compared with all ends, not searched for: the numbers are small.
  target_of_column = jnp.sum(column[:, None] >= ends, axis=1)
  valid = column < ends[-1]
  cost = cost[:, jnp.minimum(target_of_column, num_targets - 1)]  # [Q, columns]
  blocked = jnp.max(cost, initial=-MAX_COST, where=valid) + 1
  real = jnp.where(valid, cost, blocked)
  stand_in = jnp.where(jnp.eye(num_columns, dtype=bool) & ~valid, blocked - 1, blocked)
  query, column = optax.assignment.hungarian_algorithm(jnp.concatenate([real, stand_in]))
  target = jnp.where(valid[column], target_of_column[column], -1).astype(jnp.int32)
  answer = jnp.full(num_queries + num_columns, -1, jnp.int32).at[query].set(target)
  return answer[:num_queries]


def check(target_of_query: jax.Array, repeats: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Checks an assignment: what comes from a host is not taken on trust.

  Args:
    target_of_query: [N, Q] int32 from `match`.
    repeats: [N, T] int32.

  Returns:
    target_of_query: [N, Q] as given; -1 throughout in problems whose answer is not an assignment
      of min(Q, sum of the repeats) columns.
    invalid: int32 scalar, number of problems with such an answer.
  """
  num_queries, num_targets = target_of_query.shape[1], repeats.shape[1]
  pairs = target_of_query[..., None] == jnp.arange(num_targets)  # [N, Q, T]
  times = jnp.sum(pairs, axis=1, dtype=jnp.int32)  # [N, T]
  assigned = jnp.sum(target_of_query != -1, axis=1)  # [N]
  expected = jnp.minimum(num_queries, jnp.sum(repeats, axis=1))
  good = jnp.all(times <= repeats, axis=1) & (times.sum(1) == expected) & (assigned == expected)
  return jnp.where(good[:, None], target_of_query, -1), jnp.sum(~good, dtype=jnp.int32)


def list_pairs(target_of_query: jax.Array, num_targets: int, num_pairs: int) -> Pairs:
  """Lists the pairs of an assignment.

  Args:
    target_of_query: [N, Q] int32 from `check`.
    num_targets: T.
    num_pairs: S, the most pairs that a problem can have, at most Q.

  Returns:
    [N, S] pairs.
  """
  position = jnp.where(target_of_query < 0, num_targets, target_of_query)  # [N, Q]
  query = jnp.argsort(position, axis=1, stable=True)[:, :num_pairs].astype(jnp.int32)
  target = jnp.take_along_axis(position, query, axis=1)  # [N, S]
  smaller = jnp.sum(target[:, None, :] < target[:, :, None], axis=-1, dtype=jnp.int32)
  rank = jnp.arange(query.shape[1]) - smaller
  real = target < num_targets
  return Pairs(*(jnp.where(real, x, empty) for x, empty in ((query, -1), (target, 0), (rank, 0))))
