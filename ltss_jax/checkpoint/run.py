"""The checkpoints of a run: numbered by step, the last few and the best kept."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ltss_jax.checkpoint import loading
from ltss_jax.checkpoint.contents import Contents
from ltss_jax.checkpoint.loading import CheckpointError, DamagedCheckpointError

METRIC = "mIoU"
LATEST, BEST = 0, -1  # values of config.eval.step beside step numbers


class Checkpoints:
  """The numbered checkpoints of one run: the last few and the best by mIoU are kept.

  Each holds the train state, the data iterator's state and what both must come back as, and appears
  under its number only when it is complete. Use as a context manager: leaving it waits for the save
  in progress.
  """

  def __init__(self, directory: epath.PathLike, keep: int = 1, *, read_only: bool = False):
    """Opens (or creates) the directory.

    Args:
      directory: local path or gs://.
      keep: how many of the latest checkpoints stay, beside the best.
      read_only: leave alone what is being written there: another process may be training.
    """
    self._directory, self._keep, self._read_only = loading.absolute(directory), keep, read_only
    self._checkpointer = self._open()

  def _open(self) -> ocp.training.Checkpointer:
    """Orbax's list of the checkpoints, which it cannot make where what they scored is no JSON."""
    damaged = self._illegible_scores()
    if damaged:
      self._put_aside(damaged)
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
      self._directory,
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.AnyPreservationPolicy(
        [
          policies.LatestN(self._keep),
          policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      ),
      cleanup_tmp_directories=not self._read_only,
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    if error_type is None:
      self.wait()
    try:
      self._checkpointer.close()
    except Exception:  # What close() finds is either reported by wait() or comes second.
      if error_type is None:
        raise

  @property
  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return [c.step for c in self._checkpointer.checkpoints]

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the highest mIoU; None where none was evaluated.

    Raises:
      DamagedCheckpointError: a checkpoint's mIoU is not the one that it was saved with.
    """
    for step in self.steps:
      self._check_score(step)
    scored = [(c.metrics[METRIC], c.step) for c in self._checkpointer.checkpoints if c.metrics]
    return max(scored)[1] if scored else None

  def is_scored(self, step: int) -> bool:
    """Whether the checkpoint of this step was saved with its mIoU."""
    return self._metrics(step) is not None

  def _metrics(self, step: int) -> dict[str, float] | None:
    """What was noted of its evaluation."""
    found = (c.metrics for c in self._checkpointer.checkpoints if c.step == step)
    return next(found, None) or None

  def find(self, wanted: int) -> int | None:
    """The step that a number, LATEST or BEST stands for; None where there is no such checkpoint.

    A step's number is returned as it is, whether or not its checkpoint exists.

    Raises:
      DamagedCheckpointError: BEST is wanted, and a checkpoint's mIoU is damaged.
    """
    if wanted == LATEST:
      return max(self.steps, default=None)
    return self.best_step if wanted == BEST else wanted

  def save(
    self, step: int, state: Any, data_state: Mapping[str, Any], miou: float | None = None
  ) -> None:
    """Starts to save in the background; waits first for the save before it.

    Args:
      step: number of the checkpoint. If it exists nothing happens, unless it has no mIoU yet and
        one is given: then it is replaced.
      state: train state.
      data_state: JSON-like state of the data iterator.
      miou: mIoU of this state in percent, where it was evaluated.

    Raises:
      CheckpointError: this save, or the one before, failed.
    """
    self.wait()
    exists = step in self.steps
    if exists and (miou is None or self.is_scored(step)):
      return
    metrics = None if miou is None else {METRIC: miou}
    facts = {"step": step, "data": dict(data_state), "metrics": metrics}
    items = {
      loading.STATE: state,
      loading.DATA: dict(data_state),
      loading.CONTENTS: Contents(state, facts),
    }
    try:
      self._checkpointer.save_checkpointables_async(step, items, overwrite=exists, metrics=metrics)
    except Exception as error:
      raise self._failed(step, error) from error

  def wait(self) -> None:
    """Waits for the save in progress.

    Raises:
      CheckpointError: it failed.
    """
    try:
      self._checkpointer.wait()
    except Exception as error:
      raise self._failed(None, error) from error

  def restore(
    self, state: Any, data_state: Mapping[str, Any] | None = None, step: int | None = None
  ) -> tuple[Any, dict[str, Any] | None]:
    """Reads a checkpoint.

    Args:
      state: train state (arrays or ShapeDtypeStructs with shardings) of the expected shapes; the
        result is placed as it is.
      data_state: structure of the data iterator's state; None leaves it unread.
      step: number of the checkpoint; None is the latest.

    Returns:
      (train state, data iterator's state or None).

    Raises:
      DamagedCheckpointError: it is not what was saved.
      CheckpointError: there is no such checkpoint, or it does not fit.
    """
    step = self._existing(step)
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    items = {loading.STATE: abstract}
    if data_state is not None:
      items[loading.DATA] = dict(data_state)
    self._check_score(step)
    loaded = loading.load(self._path(step), self._name(step), items)
    return loaded[loading.STATE], loaded.get(loading.DATA)

  def resume(self, state: Any, data_state: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Reads the latest checkpoint that is not damaged; damaged ones are put aside, with a warning.

    They stay in the directory under another name, so that steps are counted from the one read.

    Args:
      state: train state, as in `restore`.
      data_state: likewise.

    Returns:
      (train state, data iterator's state).

    Raises:
      DamagedCheckpointError: all are damaged.
      CheckpointError: there is none, or the latest does not fit.
    """
    damaged: dict[int, str] = {}
    result = None
    for step in reversed(self.steps):
      loaded = problem = None
      try:
        if result is None:
          loaded = self.restore(state, data_state, step)
        else:  # What it scored decides on what is kept.
          self._check_score(step)
      except DamagedCheckpointError as error:
        problem = str(error)
      problem = _agreed(problem)
      if problem:
        damaged[step] = problem
      elif result is None:
        result = loaded
    if not self.steps:
      self._existing(None)  # which says so
    if damaged:
      self._checkpointer.close()
      self._put_aside(damaged)
      self._checkpointer = self._open()
    return result

  def _illegible_scores(self) -> dict[int, str]:
    """Step -> problem of the checkpoints whose mIoU cannot be read."""
    damaged = {}
    for step in self._steps_on_disk():
      path = self._path(step) / "metrics" / "metrics"
      try:
        json.loads(path.read_bytes())
      except FileNotFoundError:
        pass  # not evaluated, or removed in the meantime by the training of this run
      except ValueError as error:
        damaged[step] = str(loading.damaged(self._name(step), f"{path}: {error}"))
    return damaged

  def _put_aside(self, damaged: Mapping[int, str]) -> None:
    """Gives damaged checkpoints names that are no steps.

    Raises:
      DamagedCheckpointError: no other is left, or this is a reader only.
    """
    if self._read_only or set(damaged) == set(self._steps_on_disk()):
      raise DamagedCheckpointError("\n".join(damaged.values()))
    for step, problem in damaged.items():
      number = sum(p.name.startswith(f"damaged-{step}-") for p in self._directory.iterdir())
      aside = self._directory / f"damaged-{step}-{number}"
      logging.warning("%s For now it is put aside as %s.", problem, aside)
      if jax.process_index() == 0:
        self._path(step).rename(aside)
    multihost_utils.sync_global_devices("damaged checkpoints are put aside")

  def read_raw(self, step: int, *names: str) -> dict[str, Any]:
    """Entries of the train state of one checkpoint, whatever its structure.

    Args:
      step: number of the checkpoint.
      *names: names of the entries, such as "params"; all where none are given.

    Returns:
      The entries by name, nested dicts of numpy arrays.

    Raises:
      DamagedCheckpointError: it is not what was saved.
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    self._existing(step)
    return loading.load_arrays(self._path(step), self._name(step), names)

  def _steps_on_disk(self) -> list[int]:
    """Without asking Orbax, whose list counts a save that has just failed."""
    if not self._directory.exists():
      return []
    return sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())

  def _path(self, step: int) -> epath.Path:
    return self._directory / str(step)

  def _name(self, step: int) -> str:
    return f"the checkpoint of step {step} in {self._directory}"

  def _check_score(self, step: int) -> None:
    contents = loading.read_contents(self._path(step), self._name(step))
    now, saved = self._metrics(step), contents and contents.facts["metrics"]
    if contents and loading.differ(now, saved):
      raise loading.damaged(self._name(step), f"it says {now} of its evaluation, not {saved}")

  def _existing(self, step: int | None) -> int:
    """The step, for None the latest one; a CheckpointError where there is no such checkpoint."""
    steps = self.steps
    if not steps or step not in (None, *steps):
      raise CheckpointError(
        f"{self._directory} holds no checkpoint {'' if step is None else f'of step {step}'}; "
        f"there are: {steps or 'none'}"
      )
    return steps[-1] if step is None else step

  def _failed(self, step: int | None, error: Exception) -> CheckpointError:
    which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
    steps = self._steps_on_disk()
    return CheckpointError(
      f"could not save {which} in {self._directory}: {loading.reason(error)}. "
      f"Complete checkpoints: {steps or 'none'}. Look at the free space and the permissions there; "
      "the same command then continues from the latest."
    )


def _agreed(problem: str | None) -> str | None:
  """The problem; where only other processes see one, that."""
  if jax.process_count() == 1:
    return problem
  anywhere = multihost_utils.process_allgather(np.array(problem is not None)).any()
  return problem or ("Another process finds the checkpoint damaged." if anywhere else None)
