"""All that a training works with: built for a new run, restored for one that goes on."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import optax
from absl import logging
from clu import parameter_overview
from etils import epath

from input_pipeline import pipeline, prepared
from ltss_jax import architectures, build, checkpoint, mesh as mesh_lib, optimizer
from ltss_jax.dataset import Dataset, prepare_run
from ltss_jax.evaluation import evaluator
from ltss_jax.training import initial_state, metric_writer, preemption as preemption_lib, train_step
from ltss_jax.training.pictures import Pictures
from ltss_jax.training.state import TrainState
from ltss_jax.workdir import paths, run_config, run_data, run_environment


class NonFiniteLossError(RuntimeError):
  """The loss or the gradient became infinite or NaN; the message says when and what to try."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What stays the same from step to step; the state, which does not, is no part of it.

  Attributes:
    config: resolved config.
    workdir: folder of the run.
    mesh: all devices of the job.
    step_function: compiled training step.
    batches: training batches from the present step on.
    saved: checkpoints of the run.
    evaluation: evaluation on the validation split.
    writer: destination of the metrics.
    schedule: learning rate by number of updates done.
    pictures: pictures of predictions.
  """

  config: ml_collections.ConfigDict
  workdir: epath.Path
  mesh: jax.sharding.Mesh
  step_function: train_step.StepFunction
  batches: pipeline.TrainIterator
  saved: checkpoint.Checkpoints
  evaluation: evaluator.Evaluator
  writer: metric_writer.MetricWriter
  schedule: Callable[[int], jax.Array]
  pictures: Pictures

  def is_evaluated(self, step: int) -> bool:
    """Whether an evaluation is due after this step."""
    return step % self.config.eval.every_steps == 0 or step == self.config.train.steps

  def evaluate(
    self, step: int, state: TrainState, preemption: preemption_lib.Preemption
  ) -> float | None:
    """The mIoU of a state in percent; None where the job is asked to stop before it is known."""
    try:
      preemption.check()
      result = self.evaluation(step, *state.inference_weights, preemption.check)
    except preemption_lib.Stopped:
      return None
    self.writer.write_scalars(step, evaluator.scalars(result))
    return result["mIoU"]

  def save(self, step: int, state: TrainState, miou: float | None) -> None:
    """Starts to save the state and the place in the batches, with its mIoU where it is known."""
    self.saved.save(step, state, self.batches.get_state(), miou)

  def check_finite(self, step: int, metrics: dict[str, Any]) -> None:
    """Looks whether training diverged up to a step.

    Args:
      step: number of updates done.
      metrics: second result of the step function.

    Raises:
      NonFiniteLossError: it did.
    """
    diverged = int(jax.device_get(metrics["diverged_step"]))
    if diverged:
      raise NonFiniteLossError(
        f"the loss or the gradient was not finite at step {diverged} (seen at step {step}), nor in "
        f"the {self.config.train.max_nonfinite_steps} steps before it, which "
        "config.train.max_nonfinite_steps lets pass without an update. "
        f"Last good checkpoint: {max(self.saved.steps, default='none')}. Try a lower "
        "config.optimizer.learning_rate, a warm-up (config.optimizer.warmup_steps), gradient "
        "clipping (config.optimizer.clip_norm) or config.model.dtype=float32."
      )


@contextlib.contextmanager
def opened(
  config: ml_collections.ConfigDict, workdir: epath.Path
) -> Iterator[tuple[Run, TrainState]]:
  """Starts a run, or continues it from its latest checkpoint.

  Args:
    config: config from a file in configs/, with the command line's values.
    workdir: folder of the run.

  Yields:
    (run, present state); both are closed, and what is being saved is waited for, afterwards.

  Raises:
    ValueError, FileNotFoundError: config, data or workdir are not as they should be.
    checkpoint.CheckpointError: saving or restoring failed.
  """
  config, dataset = prepare_run(config)
  mesh = mesh_lib.data_mesh(fsdp=config.mesh.fsdp)
  check_batch_size(config, mesh)
  with checkpoint.Checkpoints(paths.checkpoints(workdir), config.checkpoint.keep) as saved:
    if saved.steps:  # What an aborted attempt left without a checkpoint is no run yet.
      run_config.check(workdir, config)
      run_data.check(workdir, dataset)
    evaluation = evaluator.Evaluator(config, dataset, workdir)
    objective = build.build_objective(
      config,
      num_classes=dataset.metadata.num_classes,
      ignore_label=dataset.metadata.ignore_label,
      mesh=mesh,
      train_stats=dataset.train_stats,
    )
    recipe = build.optimizer_config(config)
    transform = optimizer.make_optimizer(recipe, objective.decays, objective.layers_above)
    if saved.steps:
      state = train_step.abstract_state(objective, transform, mesh, config.optimizer.ema_decay)
    else:
      state = initial_state.initial_state(config, dataset, objective, transform, mesh)
    with pipeline.train_iterator(
      prepared.open_source(dataset.directory, "train"),
      build.train_pipeline_config(config, dataset, objective.max_targets),
      jax.process_index(),
      jax.process_count(),
    ) as batches:
      if saved.steps:
        state, data_state = saved.resume(state, batches.get_state())
        batches.set_state(data_state)
        logging.info("Continuing from step %d in %s", int(state.step), workdir)
      else:
        _start(state, config, dataset, workdir)
      with contextlib.closing(_open_logs(config, dataset, workdir, int(state.step))) as writer:
        run = Run(
          config=config,
          workdir=workdir,
          mesh=mesh,
          step_function=make_step_function(config, objective, transform, mesh),
          batches=batches,
          saved=saved,
          evaluation=evaluation,
          writer=writer,
          schedule=optimizer.learning_rate_schedule(recipe),
          pictures=Pictures(config, dataset, workdir, evaluation, writer),
        )
        yield run, state


def check_batch_size(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
  """Raises a ValueError where a batch does not split evenly over devices and micro-batches."""
  accumulation = config.train.grad_accumulation
  what = f"{mesh.size} devices x {accumulation} micro-batches (config.train.grad_accumulation)"
  mesh_lib.check_batch_size("config.batch_size", config.batch_size, mesh.size * accumulation, what)


def make_step_function(
  config: ml_collections.ConfigDict,
  objective: architectures.Objective,
  transform: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> train_step.StepFunction:
  """The training step with the settings of `config.train`; compiles on first use.

  Args:
    config: resolved config.
    objective: model and loss of the config.
    transform: optimizer of the config.
    mesh: devices over which batch and state are divided.
  """
  return train_step.make_train_step(
    objective,
    transform,
    mesh,
    seed=config.seed,
    log_every_steps=config.train.log_every_steps,
    grad_accumulation=config.train.grad_accumulation,
    max_nonfinite_steps=config.train.max_nonfinite_steps,
    ema_decay=config.optimizer.ema_decay,
  )


def _start(
  state: TrainState, config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.Path
) -> None:
  """Logs what is about to be trained and writes config.json and data.json, once per run."""
  logging.info("Config:\n%s", config)
  overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
  logging.info("Parameters:\n%s", overview)
  if config.model.freeze_backbone:
    frozen = parameter_overview.count_parameters(state.params["backbone"])
    total = parameter_overview.count_parameters(state.params)
    logging.info("Frozen: the %d parameters of the backbone, of %d", frozen, total)
  logging.info(
    "Training %d steps of %d images on %d x %s, %d process(es), the state divided by %d",
    config.train.steps,
    config.batch_size,
    jax.device_count(),
    jax.devices()[0].device_kind,
    jax.process_count(),
    config.mesh.fsdp,
  )
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    run_config.write(workdir, config)
    run_data.write(workdir, dataset)


def _open_logs(
  config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.Path, step: int
) -> metric_writer.MetricWriter:
  """Process 0 notes what this start runs on; returns where metrics go."""
  is_primary = jax.process_index() == 0
  if is_primary:
    run_config.note_growth(workdir, config)
    run_environment.append(
      workdir,
      step=step,
      train_images=len(dataset.train_counts),
      val_images=len(dataset.val_counts),
    )
  return metric_writer.create_writer(
    workdir,
    start_step=step,
    is_primary=is_primary,
    wandb_project=config.train.wandb_project,
    config=config.to_dict(),
  )
