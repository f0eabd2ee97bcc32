"""Hungarian matching of queries and targets: scipy on the host or optax on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

BACKENDS = ("scipy", "optax")
# What a cost that is no number, or larger than this, counts as. Regular costs are below 1e3, and
# sums over a whole assignment stay finite in float32.
MAX_COST = 1e6
# Numbers in one operand of the callback. JAX copies up to 100 KiB at once, see `_call_host`.
_PIECE = 16384


def match(costs: jax.Array, valid: jax.Array, backend: str) -> jax.Array:
  """Assigns targets to queries, one to one, at the least total cost.

  min(Q, number of valid targets) pairs are made, so with more targets than queries some targets
  stay without a query. Costs that are not finite are replaced by `MAX_COST`.

  Args:
    costs: [N, Q, T] float32 costs of N independent problems.
    valid: [N, T] bool, the targets that are there; the others are padding and get no query.
    backend: "scipy" solves all problems in one host callback (inside a fully manual `shard_map`
      each device's host solves its own), "optax" solves them on the device, for where callbacks
      are not to be had (inside a `shard_map` only with check_vma=False).

  Returns:
    [N, Q] int32, the target of each query, -1 where it has none.

  Raises:
    ValueError: for an unknown backend.
  """
  costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
  costs = jnp.nan_to_num(costs, nan=MAX_COST, posinf=MAX_COST, neginf=MAX_COST)
  costs = jnp.clip(costs, -MAX_COST, MAX_COST)
  if backend == "scipy":
    return _call_host(costs, valid)
  if backend == "optax":
    return jax.vmap(_solve_on_device)(costs, valid)
  raise ValueError(f"matcher is {backend!r}; set it to {' or '.join(BACKENDS)}")


def _call_host(costs: jax.Array, valid: jax.Array) -> jax.Array:
  """Scipy's answers, through one callback that gets the costs in pieces, padding as infinity.

  JAX copies a callback's operands to its CPU client, larger ones on threads that the program itself
  may hold: with several CPU devices, or one core, such a program stops for ever at the first look
  at an operand (jax-ml/jax issues 24255, 25861). Small ones are copied at once.
  """
  flat = jnp.where(valid[:, None], costs, jnp.inf).reshape(-1)
  pieces = [flat[i : i + _PIECE] for i in range(0, flat.size, _PIECE)]

  def solve(*pieces):
    return solve_with_scipy(np.concatenate(pieces).reshape(costs.shape))

  return jax.pure_callback(solve, jax.ShapeDtypeStruct(costs.shape[:2], jnp.int32), *pieces)


def solve_with_scipy(costs: np.ndarray) -> np.ndarray:
  """Least-cost assignments of independent problems.

  Args:
    costs: [N, Q, T] float32; padded targets have infinite costs, others finite ones.

  Returns:
    [N, Q] int32, the target of each query, -1 where it has none.
  """
  target_of_query = np.full(costs.shape[:2], -1, np.int32)
  for answer, cost in zip(target_of_query, costs, strict=True):
    targets = np.flatnonzero(np.isfinite(cost[0]))
    query, column = scipy.optimize.linear_sum_assignment(cost[:, targets])
    answer[query] = targets[column]
  return target_of_query


def _solve_on_device(cost: jax.Array, valid: jax.Array) -> jax.Array:
  """Optax's answer to one problem.

  As many stand-in queries as targets are added. Each padded target has one that is cheapest for it
  alone, which the algorithm finds in one step (with padding that costs the same everywhere, 10
  targets padded to 64 took 17 times as long). All else that is no real pair costs the same, and
  more than any real pair, so a valid target gets a stand-in only where no query is left.
  """
  num_queries, num_targets = cost.shape
  blocked = jnp.max(cost, initial=-MAX_COST, where=valid) + 1
  real = jnp.where(valid, cost, blocked)
  stand_in = jnp.where(jnp.eye(num_targets, dtype=bool) & ~valid, blocked - 1, blocked)
  query, target = optax.assignment.hungarian_algorithm(jnp.concatenate([real, stand_in]))
  target = jnp.where(valid[target], target, -1).astype(jnp.int32)
  answer = jnp.full(num_queries + num_targets, -1, jnp.int32).at[query].set(target)
  return answer[:num_queries]


def pair_up(target_of_query: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Checks an assignment and indexes it by target; what comes from a host is not taken on trust.

  Args:
    target_of_query: [N, Q] int32 from `match`.
    valid: [N, T] bool.

  Returns:
    target_of_query: [N, Q] as given; -1 throughout in problems whose answer is not an assignment
      of min(Q, number of valid targets) distinct valid targets.
    query_of_target: [N, T] int32, -1 for targets without a query.
    invalid: int32 scalar, number of problems with such an answer.
  """
  num_queries, num_targets = target_of_query.shape[1], valid.shape[1]
  pairs = target_of_query[..., None] == jnp.arange(num_targets)  # [N, Q, T]
  times = jnp.sum(pairs, axis=1, dtype=jnp.int32)  # [N, T]
  assigned = jnp.sum(target_of_query != -1, axis=1)  # [N]
  expected = jnp.minimum(num_queries, jnp.sum(valid, axis=1))
  good = jnp.all(times <= valid, axis=1) & (times.sum(1) == expected) & (assigned == expected)
  target_of_query = jnp.where(good[:, None], target_of_query, -1)
  has_query = (times > 0) & good[:, None]
  query_of_target = jnp.where(has_query, jnp.argmax(pairs, axis=1).astype(jnp.int32), -1)
  return target_of_query, query_of_target, jnp.sum(~good, dtype=jnp.int32)
