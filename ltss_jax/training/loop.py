"""Training: one loop that can be killed anywhere and goes on as if nothing had happened."""

from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from ltss_jax import mesh as mesh_lib, report
from ltss_jax.training import preemption as preemption_lib, run as run_lib
from ltss_jax.training.progress import Progress
from ltss_jax.training.state import TrainState
from ltss_jax.training.step_trace import StepTrace


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> dict[str, Any] | None:
  """Trains from scratch or from the latest checkpoint in `workdir`, evaluating along the way.

  Args:
    config: config from a file in configs/, with the command line's values.
    workdir: folder of the run; see the README for what lies in it.

  Returns:
    On process 0 the result of the last evaluation, as in WORKDIR/eval/<step>.json; None where the
    run was asked to stop before its end, and on the other processes.

  Raises:
    ValueError, FileNotFoundError: config, data or workdir are not as they should be.
    run.NonFiniteLossError: training diverged.
    checkpoint.CheckpointError: saving or restoring failed.
  """
  with run_lib.opened(config, epath.Path(workdir).expanduser()) as (run, state):
    finished = _loop(run, state)
  if not finished or jax.process_index() > 0:
    return None
  if run.config.train.report:
    report.after_training(run.workdir)
  return run.evaluation.saved_result(run.config.train.steps)


def _loop(run: run_lib.Run, state: TrainState) -> bool:
  """Runs to the last step (True), or to where the job was asked to stop (False)."""
  start = step = int(state.step)
  config, total = run.config, run.config.train.steps
  progress, in_flight = Progress(config, run.schedule, run.writer), None
  with preemption_lib.Preemption() as preemption, StepTrace(config.train, run.workdir) as trace:
    if start and run.is_evaluated(start) and not run.saved.is_scored(start):
      # The last start was stopped just there.
      miou = run.evaluate(step, state, preemption)
      if miou is None:
        return _stopped(run, step)
      run.save(step, state, miou)
      run.pictures(step, state)
    elif start == total and run.pictures.are_missing():
      # The last start was killed just before them.
      run.pictures(step, state)
    while step < total:
      step += 1
      trace.before(step, in_flight)
      # Once it is compiled, a step moves nothing between host and devices unless it says so.
      guard = jax.transfer_guard("allow" if step == start + 1 else "disallow")
      with jax.profiler.StepTraceAnnotation("train", step_num=step), guard:
        batch = mesh_lib.put_batch(progress.next(run.batches), run.mesh)
        state, metrics = run.step_function(state, batch)
        jax.block_until_ready(in_flight)  # The host runs one step ahead, no further.
      in_flight = metrics
      trace.after(step, in_flight)
      if step == start + 1:
        jax.block_until_ready(metrics)
        progress.compiled()

      stop = preemption.reached(step)
      due = run.is_evaluated(step)
      log = step % config.train.log_every_steps == 0 or step == total
      save = due or stop or step % config.checkpoint.every_steps == 0
      if log or save:
        run.check_finite(step, metrics)
      if log:
        progress.log(step, metrics)
      miou = run.evaluate(step, state, preemption) if due and not stop else None
      stop = stop or (due and miou is None)
      if save:
        run.writer.flush()
        run.save(step, state, miou)
      if stop:
        return _stopped(run, step)
      shown = run.pictures(step, state)
      if log or save or shown:
        progress.restart()
  return True


def _stopped(run: run_lib.Run, step: int) -> bool:
  """Waits until the last checkpoint is written; returns False: the run is not at its end."""
  run.saved.wait()
  logging.info("Asked to stop: saved step %d; the same command goes on from there", step)
  return False
