"""Training: one loop that can be killed anywhere and goes on as if nothing had happened."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from absl import logging
from clu import parameter_overview
from etils import epath

from input_pipeline import pipeline, prepared
from ltss_jax import build, checkpoint, mesh as mesh_lib, optimizer, report
from ltss_jax.dataset import Dataset, prepare_run
from ltss_jax.evaluation import evaluator, examples
from ltss_jax.losses import class_losses
from ltss_jax.training import initial_state, metric_writer, preemption as preemption_lib, train_step
from ltss_jax.training.state import TrainState
from ltss_jax.visualization import example_images
from ltss_jax.workdir import paths, run_config, run_data, run_environment


class NonFiniteLossError(RuntimeError):
  """The loss or the gradient became infinite or NaN; the message says when and what to try."""


class Progress:
  """Speed and waiting time between two log lines."""

  def __init__(self, batch_size: int, total_steps: int):
    self._batch_size, self._total_steps = batch_size, total_steps
    self.restart()

  def restart(self) -> None:
    """Starts a new interval; evaluation and saving are kept out of it."""
    self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

  def next(self, batches: Iterator[Any]) -> Any:
    """Draws a batch and counts the time that it took."""
    start = time.perf_counter()
    batch = next(batches)
    self._waited += time.perf_counter() - start
    self._steps += 1
    return batch

  @property
  def elapsed(self) -> float:
    """Seconds since the start of the interval."""
    return time.perf_counter() - self._start

  def summary(self, step: int) -> dict[str, float]:
    """{"images_per_second", "data_wait" (share of the time, 0-1), "eta_seconds"}."""
    elapsed = self.elapsed
    seconds_per_step = elapsed / max(1, self._steps)
    return {
      "images_per_second": self._batch_size / seconds_per_step,
      "data_wait": self._waited / elapsed,
      "eta_seconds": (self._total_steps - step) * seconds_per_step,
    }


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> dict[str, Any] | None:
  """Trains from scratch or from the latest checkpoint in `workdir`, evaluating along the way.

  Args:
    config: from a file in configs/, with the command line's values.
    workdir: of the run; see the README for what lies in it.

  Returns:
    On process 0 the results of the last evaluation, as in WORKDIR/eval/<step>.json; None where the
    run was asked to stop before its end, and on the other processes.

  Raises:
    ValueError, FileNotFoundError: config, data or workdir are not as they should be.
    NonFiniteLossError: training diverged.
    checkpoint.CheckpointError: saving or restoring failed.
  """
  workdir = epath.Path(workdir).expanduser()
  config, dataset = prepare_run(config)
  mesh = mesh_lib.data_mesh()
  accumulation = config.train.grad_accumulation
  parts = mesh.size * accumulation
  what = f"{mesh.size} devices x {accumulation} slices of config.train.grad_accumulation"
  mesh_lib.check_batch_size("config.batch_size", config.batch_size, parts, what)
  with checkpoint.Checkpoints(paths.checkpoints(workdir), config.checkpoint.keep) as saved:
    if saved.steps:  # What an aborted attempt left without a checkpoint is no run yet.
      run_config.check(workdir, config)
      run_data.check(workdir, dataset)
    evaluation = evaluator.EvaluationRun(config, dataset, workdir)
    finished = _train(config, dataset, mesh, workdir, saved, evaluation)
  if not finished or jax.process_index() > 0:
    return None
  if config.train.report:
    report.after_training(workdir)
  return evaluation.results(config.train.steps)


def _train(
  config: ml_collections.ConfigDict,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  workdir: epath.Path,
  saved: checkpoint.Checkpoints,
  evaluation: evaluator.EvaluationRun,
) -> bool:
  """Builds or restores everything that the loop moves, and runs it."""
  recipe = build.optimizer_config(config)
  transform = optimizer.make_optimizer(recipe, evaluation.architecture.decays)
  if saved.steps:
    state = train_step.abstract_state(evaluation.architecture, transform, mesh)
  else:
    state = initial_state.initial_state(config, dataset, evaluation.architecture, transform, mesh)
  step_function = train_step.make_train_step(
    evaluation.architecture,
    transform,
    mesh,
    seed=config.seed,
    log_every_steps=config.train.log_every_steps,
    grad_accumulation=config.train.grad_accumulation,
    max_nonfinite_steps=config.train.max_nonfinite_steps,
  )
  with pipeline.train_iterator(
    prepared.open_source(dataset.directory, "train"),
    build.train_pipeline_config(config, dataset, evaluation.architecture.max_targets),
    jax.process_index(),
    jax.process_count(),
  ) as batches:
    if saved.steps:
      state, data_state = saved.resume(state, batches.get_state())
      batches.set_state(data_state)
      logging.info("Continuing from step %d in %s", int(state.step), workdir)
    else:
      _start(state, config, dataset, workdir)
    writer = _open_records(config, dataset, workdir, int(state.step))
    schedule = optimizer.learning_rate_schedule(recipe)
    pictures = _Pictures(config, dataset, workdir, evaluation, writer)
    with contextlib.closing(writer):
      return _loop(
        config, mesh, state, step_function, batches, saved, evaluation, writer, schedule, pictures
      )


def _start(
  state: TrainState, config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.Path
) -> None:
  """Logs what is about to be trained and writes config.json and data.json, once per run."""
  logging.info("Config:\n%s", config)
  overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
  logging.info("Parameters:\n%s", overview)
  _warn_of_mining(config, build.class_loss(config, dataset.train_stats))
  logging.info(
    "Training %d steps of %d images on %d x %s, %d process(es)",
    config.train.steps,
    config.batch_size,
    jax.device_count(),
    jax.devices()[0].device_kind,
    jax.process_count(),
  )
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    run_config.write(workdir, config)
    run_data.write(workdir, dataset)


def _warn_of_mining(config: ml_collections.ConfigDict, class_loss: class_losses.ClassLoss) -> None:
  mines = config.model.name == "deeplabv3plus" and config.loss.hard_pixel_fraction < 1
  if mines and class_loss.favours_rare_classes:
    logging.warning(
      "config.loss.class_loss=%s together with config.loss.hard_pixel_fraction=%g favours rare "
      "classes twice, which cost half of the mIoU where it was tried (docs/methods.md); "
      "--config.loss.hard_pixel_fraction=1 takes all pixels.",
      class_loss.name,
      config.loss.hard_pixel_fraction,
    )


def _open_records(
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


class _Pictures:
  """Pictures of predictions: a few for TensorBoard on the way, the worst and the best at the end.

  Process 0 makes them alone, of images and programs of its own, so that no other has to join.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    workdir: epath.Path,
    evaluation: evaluator.EvaluationRun,
    writer: metric_writer.MetricWriter,
  ):
    self._options, self._num_classes = config.train, dataset.metadata.num_classes
    self._config, self._dataset, self._predictor = config, dataset, evaluation.predictor
    self._path, self._writer = paths.examples(workdir, config.train.steps), writer

  def __call__(self, step: int, state: TrainState) -> bool:
    """Makes those that are due after this step; returns whether there were any."""
    every, last = self._options.log_images_every_steps, step == self._options.steps
    show, keep = every > 0 and (last or step % every == 0), last and self._options.report
    if jax.process_index() > 0:
      return False
    if show:
      chosen = self._chosen(self._options.log_images)
      for i, example in enumerate(chosen(state.params, state.stats)):
        picture = example_images.side_by_side(example, self._num_classes)
        self._writer.write_images(step, {f"examples/{i}_{example.file_name}": picture[None]})
    if keep:
      chosen = self._chosen(examples.MAX_IMAGES)
      examples.keep(chosen, state.params, state.stats, self._path)
    return show or keep

  def are_missing(self) -> bool:
    """Whether the report is to have those that stay, and they are not there."""
    return self._options.report and not self._path.exists()

  def _chosen(self, count: int) -> examples.Examples:
    return examples.Examples(self._config, self._dataset, self._predictor, count)


def _loop(
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
  state: TrainState,
  step_function: train_step.StepFunction,
  batches: pipeline.TrainIterator,
  saved: checkpoint.Checkpoints,
  evaluation: evaluator.EvaluationRun,
  writer: metric_writer.MetricWriter,
  schedule: Callable[[int], jax.Array],
  pictures: _Pictures,
) -> bool:
  """Runs to the last step (True), or to where the job was asked to stop (False)."""
  start = step = int(state.step)
  total = config.train.steps
  progress, in_flight = Progress(config.batch_size, total), None

  def is_due() -> bool:
    return step % config.eval.every_steps == 0 or step == total

  with preemption_lib.Preemption() as preemption:

    def evaluate() -> float | None:
      """The present mIoU; None where the job is asked to stop before it is known."""
      try:
        preemption.check()
        results = evaluation(step, state.params, state.stats, preemption.check)
      except preemption_lib.Stopped:
        return None
      writer.write_scalars(step, evaluator.scalars(results))
      return results["mIoU"]

    if start and is_due() and not saved.is_scored(start):  # The last start was stopped just there.
      miou = evaluate()
      if miou is None:
        return _stopped(step, saved)
      saved.save(step, state, batches.get_state(), miou)
      pictures(step, state)
    elif start == total and pictures.are_missing():  # The last start was killed just before them.
      pictures(step, state)
    while step < total:
      batch = mesh_lib.put_batch(progress.next(batches), mesh)
      state, metrics = step_function(state, batch)
      step += 1
      jax.block_until_ready(in_flight)  # The host runs one step ahead, no further.
      in_flight = metrics
      if step == start + 1:
        jax.block_until_ready(metrics)
        logging.info("The first step, with compilation, took %.1f s", progress.elapsed)
        progress.restart()

      stop = preemption.reached(step)
      log = step % config.train.log_every_steps == 0 or step == total
      save = is_due() or stop or step % config.checkpoint.every_steps == 0
      if log or save:
        _check_finite(config, metrics, step, saved)
      if log:
        _log(step, config, metrics, schedule, progress, writer)
      miou = evaluate() if is_due() and not stop else None
      stop = stop or (is_due() and miou is None)
      if save:
        writer.flush()
        saved.save(step, state, batches.get_state(), miou)
      if stop:
        return _stopped(step, saved)
      shown = pictures(step, state)
      if log or save or shown:
        progress.restart()
  return True


def _stopped(step: int, saved: checkpoint.Checkpoints) -> bool:
  """Waits until the last checkpoint is written; returns False: the run is not at its end."""
  saved.wait()
  logging.info("Asked to stop: saved step %d; the same command goes on from there", step)
  return False


def _check_finite(
  config: ml_collections.ConfigDict,
  metrics: dict[str, Any],
  step: int,
  saved: checkpoint.Checkpoints,
) -> None:
  diverged = int(metrics["diverged_step"])
  if diverged:
    raise NonFiniteLossError(
      f"the loss or the gradient was not finite at step {diverged} (seen at step {step}), nor in "
      f"the {config.train.max_nonfinite_steps} steps before it, which "
      "config.train.max_nonfinite_steps lets pass without an update. "
      f"Last good checkpoint: {max(saved.steps, default='none')}. Try a lower "
      "config.optimizer.learning_rate, a warm-up (config.optimizer.warmup_steps), gradient "
      "clipping (config.optimizer.clip_norm) or config.model.dtype=float32."
    )


def _log(
  step: int,
  config: ml_collections.ConfigDict,
  metrics: dict[str, Any],
  schedule: Callable[[int], jax.Array],
  progress: Progress,
  writer: metric_writer.MetricWriter,
) -> None:
  """Writes the means since the last log step, and the progress line."""
  num_steps = (step - 1) % config.train.log_every_steps + 1
  sums = {name: float(value) for name, value in metrics["sums"].items()}
  means = {name: value / num_steps for name, value in sums.items()}
  means["learning_rate"] = float(schedule(step - 1))
  speed = progress.summary(step)
  writer.write_scalars(step, means | speed)
  logging.info(
    "step %d/%d  %s  %.1f images/s  data wait %.1f %%  ETA %s",
    step,
    config.train.steps,
    "  ".join(f"{name} {value:.4g}" for name, value in means.items()),
    speed["images_per_second"],
    100 * speed["data_wait"],
    datetime.timedelta(seconds=round(speed["eta_seconds"])),
  )
  _warn(step - num_steps + 1, step, sums)


def _warn(first: int, last: int, sums: dict[str, float]) -> None:
  """Names what went wrong between two log lines without stopping the training."""
  if sums["skipped_steps"]:
    logging.warning(
      "steps %d to %d: %d changed nothing, as their loss or gradient was not finite "
      "(%d logits were not)",
      first,
      last,
      sums["skipped_steps"],
      sums.get("nonfinite_logits", 0),
    )
  if sums.get("dropped_targets"):
    logging.warning(
      "steps %d to %d: %d classes of crops, the most frequent ones, got no mask because "
      "config.model.max_targets is too small for all classes of the crop",
      first,
      last,
      sums["dropped_targets"],
    )
  if sums.get("invalid_matches"):
    logging.warning("steps %d to %d: %d matches were invalid", first, last, sums["invalid_matches"])
