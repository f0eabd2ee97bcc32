"""The training step that benchmarks time."""

import jax
import ml_collections

from ltss_jax import architectures, build, dataset as dataset_lib, optimizer
from ltss_jax.training import train_step
from ltss_jax.training.state import TrainState


def make(
  config: ml_collections.ConfigDict,
  dataset: dataset_lib.Dataset,
  mesh: jax.sharding.Mesh,
) -> tuple[architectures.Objective, TrainState, train_step.StepFunction]:
  """Builds what a training starts with.

  Args:
    config: resolved.
    dataset: data set of the config.
    mesh: over which batches are split.

  Returns:
    The objective, a fresh state and the step, which compiles on first use.
  """
  objective = build.build_objective(
    config,
    num_classes=dataset.metadata.num_classes,
    ignore_label=dataset.metadata.ignore_label,
    mesh=mesh,
    train_stats=dataset.train_stats,
  )
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  state = train_step.init_state(objective, transform, config.seed, mesh)
  step = train_step.make_train_step(
    objective, transform, mesh, seed=0, log_every_steps=100, max_nonfinite_steps=0
  )
  return objective, state, step
