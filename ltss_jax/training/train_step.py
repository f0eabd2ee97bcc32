"""One training step: a pure function from state and batch to state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ltss_jax import architectures, mesh as mesh_lib
from ltss_jax.training.state import TrainState, shardings

Batch = dict[str, jax.Array]
# What the step itself adds to the loss terms.
STEP_TERMS = ("grad_norm", "skipped_steps")
StepFunction = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


def _moved(ema: dict[str, Any], weights: dict[str, Any], decay: float) -> dict[str, Any]:
  """The average after an update; in this form what stays the same stays so bit by bit."""
  return jax.tree.map(lambda e, x: e + (1 - decay) * (x - e), ema, weights) if ema else ema


def _start_function(
  objective: architectures.Objective, optimizer: optax.GradientTransformation, ema_decay: float
) -> Callable[[Any, Any], TrainState]:
  """(params, stats) -> the state before the first update."""

  def start(params, stats):
    zero = jnp.int32(0)
    # Copies, as both will be donated.
    averages = jax.tree.map(jnp.copy, {"params": objective.trained(params), "stats": stats})
    return TrainState(
      step=zero,
      params=params,
      stats=stats,
      opt_state=optimizer.init(objective.trained(params)),
      ema=averages if ema_decay else {},
      metric_sums={name: jnp.float32(0) for name in (*objective.loss_terms, *STEP_TERMS)},
      skipped_in_a_row=zero,
      diverged_step=zero,
    )

  return start


def init_weights(objective: architectures.Objective, seed: int) -> tuple[Any, Any]:
  """Fresh (params, stats) in host memory, the same bits for a seed in all processes."""
  return jax.device_get(objective.init(jax.random.key(seed)))


def start_state(
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  params: Any,
  stats: Any,
  mesh: Mesh,
  ema_decay: float = 0.0,
) -> TrainState:
  """The state before the first update, divided over the mesh as `state.shardings` says.

  Args:
    objective: model and loss.
    optimizer: result of `optimizer.make_optimizer`.
    params: parameters, in host memory (the same in all processes) or on the mesh.
    stats: statistics, likewise.
    mesh: result of `mesh.data_mesh`.
    ema_decay: 0 for a state without averages.
  """
  start = _start_function(objective, optimizer, ema_decay)
  placement = shardings(jax.eval_shape(start, params, stats), mesh)
  params, stats = jax.device_put((params, stats), (placement.params, placement.stats))
  return jax.jit(start, out_shardings=placement)(params, stats)


def init_state(
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  mesh: Mesh,
  ema_decay: float = 0.0,
) -> TrainState:
  """Fresh state, divided over the mesh; the same bits for the same seed on any mesh."""
  weights = init_weights(objective, seed)
  return start_state(objective, optimizer, *weights, mesh, ema_decay)


def abstract_state(
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  ema_decay: float = 0.0,
) -> TrainState:
  """Shapes, types and placement of the state, without computing anything."""
  start = _start_function(objective, optimizer, ema_decay)
  state = jax.eval_shape(lambda: start(*objective.init(jax.random.key(0))))
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    state,
    shardings(state, mesh),
  )


def _gradient_function(
  objective: architectures.Objective, grad_accumulation: int, mesh: Mesh
) -> Callable:
  """(params, stats, batch, rng, step) -> (new stats, (gradients, loss terms)).

  The gradients are of the trained parameters, with respect to which alone the loss is
  differentiated: what the backward pass of the others alone would need is not kept. Parameters are
  gathered for computing; each device keeps its part of the gradients' sums.
  """

  def divided(tree):
    return jax.lax.with_sharding_constraint(
      tree, jax.tree.map(lambda x: mesh_lib.state_sharding(x.shape, mesh), tree)
    )

  def of_micro_batch(params, stats, batch, rng, step):
    params = jax.lax.with_sharding_constraint(params, mesh_lib.replicated(mesh))

    def loss(trained):
      return objective.loss(params | trained, stats, batch, rng, step)

    trained = objective.trained(params)
    (_, (new_stats, terms)), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    return new_stats, (divided(grads), terms)

  def of_batch(params, stats, batch, rng, step):
    if grad_accumulation == 1:
      return of_micro_batch(params, stats, batch, rng, step)

    def split(x):  # Micro-batch i takes every grad_accumulation-th row: none leaves its device.
      x = x.reshape(-1, grad_accumulation, *x.shape[1:])
      return jnp.moveaxis(x, 1, 0)  # [A, B / A, ...]

    def body(stats, inputs):
      micro_batch, key = inputs
      return of_micro_batch(params, stats, micro_batch, key, step)

    keys = jax.random.split(rng, grad_accumulation)
    stats, sums = jax.lax.scan(body, stats, (jax.tree.map(split, batch), keys))
    return stats, jax.tree.map(lambda x: x.mean(0), sums)

  return of_batch


def make_train_step(
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  seed: int,
  log_every_steps: int,
  max_nonfinite_steps: int,
  grad_accumulation: int = 1,
  ema_decay: float = 0.0,
) -> StepFunction:
  """Compiles on first use; the state is donated.

  Args:
    objective: model and loss.
    optimizer: result of `optimizer.make_optimizer`.
    mesh: result of `mesh.data_mesh`, over which batch and state are divided.
    seed: seed of the run; dropout of step s draws from fold_in(key(seed), s).
    log_every_steps: number of steps after which the state's metric sums start anew.
    max_nonfinite_steps: largest number of steps in a row whose loss or gradient may be not finite.
      Such a step changes neither parameters nor statistics nor optimizer state nor averages.
    grad_accumulation: number A of micro-batches that the batch is split into, one after the other;
      gradients and loss terms are averaged, batch-norm statistics move with each.
    ema_decay: after an update the state's averages move by 1 - ema_decay of the way to the weights;
      0 for a state without averages.

  Returns:
    Function of (state, {"image": uint8 [B, H, W, 3], "label": [B, H, W], ...}) that returns
    (state, {"sums", "diverged_step"}): copies of the state's `metric_sums` (every loss term,
    "grad_norm" before clipping and "skipped_steps"; what is not finite counts as 0) and
    `diverged_step` that outlive the state's donation.
  """
  gradients = _gradient_function(objective, grad_accumulation, mesh)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = dict(batch, image=architectures.normalize(batch["image"]))
    stats, (grads, terms) = gradients(state.params, state.stats, batch, rng, state.step)
    trained = objective.trained(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = optax.apply_updates(trained, updates)
    ema = _moved(state.ema, {"params": params, "stats": stats}, ema_decay)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
    params, stats, opt_state, ema = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, stats, opt_state, ema),
      (trained, state.stats, state.opt_state, state.ema),
    )
    skipped_in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    diverged = (state.diverged_step == 0) & (skipped_in_a_row > max_nonfinite_steps)
    diverged_step = jnp.where(diverged, state.step + 1, state.diverged_step)
    metrics = dict(terms, grad_norm=norm, skipped_steps=1.0 - finite)
    starts_anew = state.step % log_every_steps == 0
    sums = {
      name: jnp.where(jnp.isfinite(value), value, 0.0)
      + jnp.where(starts_anew, 0.0, state.metric_sums[name])
      for name, value in metrics.items()
    }
    state = TrainState(
      step=state.step + 1,
      params=state.params | params,
      stats=stats,
      opt_state=opt_state,
      ema=ema,
      metric_sums=sums,
      skipped_in_a_row=skipped_in_a_row,
      diverged_step=diverged_step,
    )
    state = jax.lax.with_sharding_constraint(state, shardings(state, mesh))
    metrics = {"sums": sums, "diverged_step": diverged_step}
    return state, jax.lax.with_sharding_constraint(metrics, mesh_lib.replicated(mesh))

  # The state comes as it was placed and leaves so: its shapes are known when the step is traced.
  return jax.jit(step, donate_argnums=0, in_shardings=(None, mesh_lib.batch_sharding(mesh)))
