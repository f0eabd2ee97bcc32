"""The weights that evaluation and prediction run on: of a run, or of a converted directory."""

from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from input_pipeline import prepared
from ltss_jax import architectures, checkpoint, mesh as mesh_lib
from ltss_jax.weights import conversion_report, finite, names, trees
from ltss_jax.workdir import paths, run_config, run_data

_RUN_ADVICE = "take an earlier step with --config.eval.step=N"
_DIRECTORY_ADVICE = "convert another checkpoint"


def require_run(workdir: epath.PathLike) -> epath.Path:
  """The directory of a run's checkpoints.

  Raises:
    checkpoint.CheckpointError: there is none.
  """
  directory = paths.checkpoints(epath.Path(workdir).expanduser())
  if not directory.exists():
    raise checkpoint.CheckpointError(
      f"{directory} does not exist: --workdir={workdir} holds no trained model. Train one first "
      "with the same command and --mode=train, or give converted weights with --checkpoint=DIR."
    )
  return directory


def read_run(
  workdir: epath.PathLike, wanted: int, *, or_latest: bool = False
) -> tuple[int, Any, Any]:
  """Reads the weights of a run, whose training may be going on.

  Args:
    workdir: workdir of the run.
    wanted: a step's number, 0 for the latest, -1 for the best by mIoU.
    or_latest: take the latest where the best is wanted and none was evaluated.

  Returns:
    (step, params, stats), nested dicts of numpy arrays. They are the averages where training kept
    such (`optimizer.ema_decay`): what it evaluated.

  Raises:
    checkpoint.CheckpointError: there is no such checkpoint, or it cannot be read.
  """
  directory = require_run(workdir)
  with checkpoint.Checkpoints(directory, read_only=True) as saved:
    step = saved.find(wanted)
    if step is None and or_latest:
      step = saved.find(checkpoint.LATEST)
    if step is None:
      reason = (
        "asks for the best checkpoint, but none there was evaluated in training"
        if saved.steps
        else "asks for a checkpoint, but there is none yet"
      )
      raise checkpoint.CheckpointError(
        f"config.eval.step={wanted} {reason}: {directory} has the steps {saved.steps or 'none'}"
      )
    state = saved.read_raw(step, "params", "stats", "ema")
  ema = state.get("ema") or {}  # as of runs without it, and of those before there was any
  if ema:
    logging.info("Step %d of %s: its averaged weights (config.optimizer.ema_decay)", step, workdir)
  params, stats = state["params"], state.get("stats", {})
  return step, params | ema.get("params", {}), stats | ema.get("stats", {})


def of_run(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  architecture: architectures.Architecture,
  metadata: prepared.ClassMetadata,
) -> tuple[int, Any, Any]:
  """Weights of the step that `config.eval.step` names: a number, 0 the latest, -1 the best by mIoU.

  Args:
    config: config of the run; only what inference does not depend on may differ.
    workdir: workdir of the run.
    architecture: architecture of the config.
    metadata: classes of the config's data, which must be those of the run.

  Returns:
    (step, params, stats), replicated over all devices.

  Raises:
    ValueError: the run is of another model or of other classes, or its weights are not finite.
    checkpoint.CheckpointError: there is no such checkpoint.
  """
  run_config.check(workdir, config, evaluating=True)
  run_data.check_classes(workdir, metadata)
  step, params, stats = read_run(workdir, config.eval.step)
  source = f"step {step} of {workdir}"
  return step, *_fitted(config, architecture, params, stats, source, _RUN_ADVICE)


def of_directory(
  config: ml_collections.ConfigDict,
  directory: epath.PathLike,
  architecture: architectures.Architecture,
) -> tuple[Any, Any]:
  """Loads converted weights.

  Args:
    config: config of the same model.
    directory: directory that `python -m ltss_jax.convert` wrote.
    architecture: architecture of the config.

  Returns:
    (params, stats), replicated over all devices.

  Raises:
    ValueError: the weights are of another model or of a part of it, or not finite.
    checkpoint.CheckpointError: they cannot be read.
  """
  params, stats, info = checkpoint.load_weights(directory)
  run_config.check_weights(directory, info, config, architecture.num_classes)
  run_config.check_crop(directory, info, config)
  logging.info("Weights of %s", directory)
  return _fitted(config, architecture, params, stats, str(directory), _DIRECTORY_ADVICE)


def _fitted(
  config: ml_collections.ConfigDict,
  architecture: architectures.Architecture,
  params: Any,
  stats: Any,
  source: str,
  advice: str,
) -> tuple[Any, Any]:
  """Loaded weights as the architecture has them, replicated over all devices."""
  abstract = jax.eval_shape(architecture.init, jax.random.key(0))
  problems = _differences(abstract[0], params) + _differences(abstract[1], stats)
  if problems:
    raise ValueError(
      f"the weights of {source} do not fit config.model.name={config.model.name!r}:\n"
      + conversion_report.problems_text(problems)
    )
  require_finite(params, stats, source, advice)
  params, stats = _completed(abstract[0], params), _completed(abstract[1], stats)
  return jax.device_put((params, stats), mesh_lib.replicated(mesh_lib.data_mesh()))


def require_finite(params: Any, stats: Any, source: str, advice: str) -> None:
  """Refuses weights with NaN or infinity in what is not for training alone.

  Args:
    params: nested dicts of arrays.
    stats: likewise.
    source: their origin, for the message.
    advice: remedy, for the message.

  Raises:
    ValueError: there are such weights.
  """
  leaves = (trees.flatten(params) | trees.flatten(stats)).items()
  used = {path: leaf for path, leaf in leaves if not names.TRAINING_ONLY.match(path)}
  finite.require_finite(used, source, advice)


def _completed(expected: Any, loaded: Any) -> Any:
  """The loaded tree as expected, with zeros for what it lacks: inference does not use it."""
  leaves = trees.flatten(loaded)
  zeros = {
    name: np.zeros(leaf.shape, leaf.dtype)
    for name, leaf in trees.flatten(expected).items()
    if name not in leaves
  }
  return trees.fill(expected, leaves | zeros)


def _differences(expected: Any, loaded: Any) -> list[str]:
  """Names that are missing (-) or too many (+), and shapes that differ (!).

  What training alone uses counts in neither.
  """
  expected, loaded = trees.flatten(expected), trees.flatten(loaded)
  problems = [
    f"- {name}: missing in the weights"
    for name in expected.keys() - loaded.keys()
    if not names.TRAINING_ONLY.match(name)
  ]
  problems += [
    f"+ {name}: not part of the model"
    for name in loaded.keys() - expected.keys()
    if not names.TRAINING_ONLY.match(name)
  ]
  for name in expected.keys() & loaded.keys():
    ours, theirs = expected[name].shape, np.shape(loaded[name])
    if ours != theirs:
      problems.append(f"! {name}: the weights have {theirs}, the model {ours}")
  return problems
