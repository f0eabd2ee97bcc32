"""One training step: a pure function from state and batch to state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ltss_jax import architectures, mesh as mesh_lib
from ltss_jax.training.state import TrainState

Batch = dict[str, jax.Array]
# What the step itself adds to the loss terms.
STEP_TERMS = ("grad_norm", "skipped_steps")
StepFunction = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


def _init_function(
  objective: architectures.Objective, optimizer: optax.GradientTransformation
) -> Callable[[int], TrainState]:
  def init(seed):
    params, stats = objective.init(jax.random.key(seed))
    sums = {name: jnp.float32(0) for name in (*objective.loss_terms, *STEP_TERMS)}
    zero = jnp.int32(0)
    return TrainState(zero, params, stats, optimizer.init(params), sums, zero, zero)

  return init


def init_state(
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """Fresh state, replicated over the mesh; the same bits for the same seed on any mesh."""
  init = _init_function(objective, optimizer)
  return jax.jit(init, static_argnums=0, out_shardings=mesh_lib.replicated(mesh))(seed)


def abstract_state(
  objective: architectures.Objective, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes, types and placement of the state, without computing anything."""
  sharding = mesh_lib.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(lambda: _init_function(objective, optimizer)(0)),
  )


def _gradient_function(objective: architectures.Objective, grad_accumulation: int) -> Callable:
  """(params, stats, batch, rng, step) -> (new stats, (gradients, loss terms))."""

  def of_micro_batch(params, stats, batch, rng, step):
    loss = jax.value_and_grad(objective.loss, has_aux=True)
    (_, (stats, terms)), grads = loss(params, stats, batch, rng, step)
    return stats, (grads, terms)

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
) -> StepFunction:
  """Compiles on first use; the state is donated.

  Args:
    objective: model and loss.
    optimizer: result of `optimizer.make_optimizer`.
    mesh: devices with the axis "data", over which the batch is split.
    seed: seed of the run; dropout of step s draws from fold_in(key(seed), s).
    log_every_steps: number of steps after which the state's metric sums start anew.
    max_nonfinite_steps: largest number of steps in a row whose loss or gradient may be not finite.
      Such a step changes neither parameters nor statistics nor optimizer state.
    grad_accumulation: number A of micro-batches that the batch is split into, one after the other;
      gradients and loss terms are averaged, batch-norm statistics move with each.

  Returns:
    Function of (state, {"image": uint8 [B, H, W, 3], "label": [B, H, W], ...}) that returns
    (state, {"sums", "diverged_step"}): copies of the state's `metric_sums` (every loss term,
    "grad_norm" before clipping and "skipped_steps"; what is not finite counts as 0) and
    `diverged_step` that outlive the state's donation.
  """
  gradients = _gradient_function(objective, grad_accumulation)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = dict(batch, image=architectures.normalize(batch["image"]))
    stats, (grads, terms) = gradients(state.params, state.stats, batch, rng, state.step)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
    params, stats, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, stats, opt_state),
      (state.params, state.stats, state.opt_state),
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
      state.step + 1, params, stats, opt_state, sums, skipped_in_a_row, diverged_step
    )
    return state, {"sums": sums, "diverged_step": diverged_step}

  replicated = mesh_lib.replicated(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(replicated, mesh_lib.batch_sharding(mesh)),
    out_shardings=(replicated, replicated),
  )
