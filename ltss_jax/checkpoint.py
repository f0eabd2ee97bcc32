"""Checkpoints: every Orbax call of the project."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

METRIC = "mIoU"
LATEST, BEST = 0, -1  # values of config.eval.step beside step numbers


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read; the message says which and why."""


class Checkpoints:
  """The numbered checkpoints of one run: the last few and the best by mIoU are kept.

  Each holds the train state and the data iterator's state as one item, and appears under its number
  only when it is complete. Use as a context manager: leaving it waits for the save in progress.
  """

  def __init__(self, directory: epath.PathLike, keep: int = 1, *, read_only: bool = False):
    """Opens (or creates) the directory.

    Args:
      directory: local path or gs://.
      keep: how many of the latest checkpoints stay, beside the best.
      read_only: leave alone what is being written there: another process may be training.
    """
    policies = ocp.training.preservation_policies
    self._directory = _absolute(directory)
    self._checkpointer = ocp.training.Checkpointer(
      self._directory,
      save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.AnyPreservationPolicy(
        [
          policies.LatestN(keep),
          policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      ),
      cleanup_tmp_directories=not read_only,
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
    """Step of the checkpoint with the highest mIoU; None where none was evaluated."""
    scored = [(c.metrics[METRIC], c.step) for c in self._checkpointer.checkpoints if c.metrics]
    return max(scored)[1] if scored else None

  def is_scored(self, step: int) -> bool:
    """Whether the checkpoint of this step was saved with its mIoU."""
    return any(c.step == step and c.metrics for c in self._checkpointer.checkpoints)

  def find(self, wanted: int) -> int | None:
    """The step that a number, LATEST or BEST stands for; None where there is no such checkpoint.

    A step's number is returned as it is, whether or not its checkpoint exists.
    """
    return {LATEST: max(self.steps, default=None), BEST: self.best_step}.get(wanted, wanted)

  def save(
    self, step: int, state: Any, data_state: Mapping[str, Any], miou: float | None = None
  ) -> None:
    """Starts to save in the background; waits first for the save before it.

    Args:
      step: number of the checkpoint. If it exists nothing happens, unless it has no mIoU yet and
        one is given: then it is replaced.
      state: train state.
      data_state: JSON-like state of the data iterator.
      miou: of this state, in percent, where it was evaluated.

    Raises:
      CheckpointError: this save, or the one before, failed.
    """
    self.wait()
    exists = step in self.steps
    if exists and (miou is None or self.is_scored(step)):
      return
    metrics = None if miou is None else {METRIC: miou}
    items = {"state": state, "data": dict(data_state)}
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
      step: which one; None is the latest.

    Returns:
      (train state, data iterator's state or None).

    Raises:
      CheckpointError: there is no such checkpoint, or it does not fit.
    """
    step = self._existing(step)
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    items = {"state": abstract}
    if data_state is not None:
      items["data"] = dict(data_state)
    try:
      loaded = self._checkpointer.load_checkpointables(step, items)
    except Exception as error:
      raise self._unreadable(step, error) from error
    return loaded["state"], loaded.get("data")

  def read_raw(self, step: int, *names: str) -> dict[str, Any]:
    """Entries of the train state of one checkpoint, whatever its structure.

    Args:
      step: of a checkpoint.
      *names: of the entries, such as "params"; all where none are given.

    Returns:
      The entries by name, nested dicts of numpy arrays.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    self._existing(step)
    try:
      state = self._checkpointer.checkpointables_metadata(step).metadata["state"]
      wanted = {name: _on_one_device(state[name]) for name in names or state}
      options = ocp.options.PyTreeOptions(
        loading=ocp.options.PyTreeOptions.Loading(partial_load=True)
      )
      with ocp.Context(pytree_options=options):
        loaded = self._checkpointer.load_checkpointables(step, {"state": wanted})["state"]
    except Exception as error:
      raise self._unreadable(step, error) from error
    return _number_keys(jax.tree.map(np.asarray, loaded))

  def _existing(self, step: int | None) -> int:
    """The step, for None the latest one; a CheckpointError where there is no such checkpoint."""
    steps = self.steps
    if not steps or step not in (None, *steps):
      raise CheckpointError(
        f"{self._directory} holds no checkpoint {'' if step is None else f'of step {step}'}; "
        f"there are: {steps or 'none'}"
      )
    return steps[-1] if step is None else step

  def _unreadable(self, step: int, error: Exception) -> CheckpointError:
    return CheckpointError(
      f"could not read the checkpoint of step {step} in {self._directory}: {_reason(error)}. "
      f"Complete checkpoints: {self.steps}. Where this one is damaged, remove it and start again "
      "from the one before."
    )

  def _failed(self, step: int | None, error: Exception) -> CheckpointError:
    which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
    # Seen on disk, not by the checkpointer, whose list counts a save that has just failed.
    steps = sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())
    return CheckpointError(
      f"could not save {which} in {self._directory}: {_reason(error)}. "
      f"Complete checkpoints: {steps or 'none'}. Look at the free space and the permissions there; "
      "the same command then continues from the latest."
    )


def save_weights(directory: epath.PathLike, params: Any, stats: Any, info: dict[str, Any]) -> None:
  """Writes weights without training state, as `--checkpoint` and `init.checkpoint` read them.

  Args:
    directory: local path or gs://; must not hold anything yet.
    params: nested dicts of arrays.
    stats: likewise.
    info: JSON-like facts about the weights, such as the model's fields.

  Raises:
    CheckpointError: the directory is in use or cannot be written.
  """
  path = _absolute(directory)
  if path.exists():
    raise CheckpointError(f"{path} exists already; choose another directory or remove it first")
  try:
    ocp.save(path, {"params": params, "stats": stats}, custom_metadata=info)
  except Exception as error:
    raise CheckpointError(f"could not write the weights to {path}: {_reason(error)}") from error


def read_info(directory: epath.PathLike) -> dict[str, Any]:
  """The facts that `save_weights` wrote beside the weights, which are not read.

  Args:
    directory: of the weights.

  Raises:
    CheckpointError: there are no such weights.
  """
  return dict(_weights_metadata(_absolute(directory)).custom_metadata or {})


def load_weights(directory: epath.PathLike) -> tuple[Any, Any, dict[str, Any]]:
  """Reads what `save_weights` wrote.

  Args:
    directory: of the weights.

  Returns:
    (params, stats, info), params and stats as nested dicts of numpy arrays.

  Raises:
    CheckpointError: there are no such weights, or they cannot be read.
  """
  path = _absolute(directory)
  metadata = _weights_metadata(path)
  try:
    loaded = ocp.load(path, _on_one_device(metadata.metadata))
  except Exception as error:
    raise _no_weights(path, error) from error
  tree = _number_keys(jax.tree.map(np.asarray, loaded))
  return tree["params"], tree.get("stats", {}), dict(metadata.custom_metadata or {})


def _weights_metadata(path: epath.Path) -> Any:
  if not path.exists():
    raise CheckpointError(f"{path} does not exist; give the directory that the conversion wrote")
  try:
    return ocp.metadata(path)
  except Exception as error:
    raise _no_weights(path, error) from error


def _no_weights(path: epath.Path, error: Exception) -> CheckpointError:
  return CheckpointError(
    f"{path} holds no converted weights ({_reason(error)}); `python -m ltss_jax.convert` makes them"
  )


def _absolute(directory: epath.PathLike) -> epath.Path:
  """Orbax takes no relative path."""
  path = epath.Path(directory).expanduser()
  return path if "://" in str(directory) else path.absolute()


def _on_one_device(metadata: Any) -> Any:
  """Abstract arrays on this process's first device, of a tree of array metadata."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata
  )


def _number_keys(tree: Any) -> Any:
  """Turns the keys of lists, which are written as text, into numbers again."""
  if not isinstance(tree, dict):
    return tree
  return {
    int(key) if isinstance(key, str) and key.isdigit() else key: _number_keys(value)
    for key, value in tree.items()
  }


def _reason(error: BaseException) -> str:
  """First line of what went wrong first; Orbax wraps it, sometimes in another error's words."""
  while error.__cause__ is not None:
    error = error.__cause__
  return (str(error).strip() or repr(error)).splitlines()[0][:500]
