"""The state that a new run starts from: random weights, or saved ones that the config names."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import optax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from input_pipeline import datasets
from ltss_jax import architectures, checkpoint
from ltss_jax.dataset import Dataset
from ltss_jax.inference import restore
from ltss_jax.training import train_step
from ltss_jax.training.state import TrainState
from ltss_jax.weights import class_rows, conversion_report, initial_weights, trees
from ltss_jax.workdir import paths, run_config, run_data


def initial_state(
  config: ml_collections.ConfigDict,
  dataset: Dataset,
  objective: architectures.Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> TrainState:
  """Initialises the state from `config.seed`, and from `config.init.checkpoint` where it is given.

  Args:
    config: resolved config of the run.
    dataset: data set of the run; the rows of saved class layers follow its class names.
    objective: model and loss of the config.
    optimizer: optimizer of the config.
    mesh: devices that the state is divided over.

  Raises:
    ValueError: the saved weights are of another model, or not finite; all differences are named. Or
      there are none, and the backbone is to stay as they have it.
    checkpoint.CheckpointError: they cannot be read.
  """
  directory = config.init.checkpoint
  if not directory:
    if config.model.freeze_backbone:
      raise ValueError(
        "config.model.freeze_backbone=True keeps the backbone as config.init.checkpoint has it, and"
        " that is empty: random weights would stay random. Name weights with"
        " --config.init.checkpoint, or train the backbone as well"
      )
    if config.data.name in datasets.PUBLISHED:
      logging.warning(
        "config.init.checkpoint is empty: the backbone starts from random weights, while every "
        "published result of %s starts from ImageNet weights, without which it is far out of reach."
        " docs/conversion.md says where to get and how to convert them.",
        config.data.name,
      )
    return train_step.init_state(
      objective, optimizer, config.seed, mesh, config.optimizer.ema_decay
    )
  params, stats, info, source = _saved_weights(directory, config.init.step)
  is_backbone = info.get("contents") == "backbone"
  if info and not is_backbone:  # The number of classes alone may differ.
    run_config.check_weights(directory, info, config, info.get("num_classes"))
  fresh = train_step.init_weights(objective, config.seed)
  if config.model.freeze_backbone:
    _warn_of_frozen_beginners(fresh[0], (params, stats), source)
  rows = None if is_backbone else class_rows_of(directory, info, dataset.metadata.class_names)
  try:
    params, stats, changes = initial_weights.initial_weights(*fresh, params, stats, rows)
  except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
  logging.info("Starting from %s: %s", source, changes)
  decay = config.optimizer.ema_decay
  return train_step.start_state(objective, optimizer, params, stats, mesh, decay)


def _warn_of_frozen_beginners(fresh: Any, loaded: tuple[Any, Any], source: str) -> None:
  """Names the parameters of a frozen backbone that the loaded (params, stats) lack."""
  saved, prefix = trees.flatten(loaded[0]) | trees.flatten(loaded[1]), initial_weights.BACKBONE
  beginners = [path for path in trees.flatten(fresh) if path.startswith(f"{prefix}/")]
  beginners = [path for path in beginners if path not in saved]
  if beginners:
    logging.warning(
      "config.model.freeze_backbone=True: what %s lacks of the backbone stays as it is drawn:\n%s",
      source,
      "\n".join(f"- {group}" for group in conversion_report.grouped(beginners)),
    )


def _saved_weights(directory: str, step: int) -> tuple[Any, Any, dict[str, Any], str]:
  """Returns (params, stats, facts about them, their name) of a run or of converted weights."""
  if not _is_run(directory):
    return *checkpoint.load_weights(directory), directory
  step, params, stats = restore.read_run(directory, step, or_latest=True)
  saved = run_config.read(directory)
  info = {"model": saved["model"]} if saved else {}
  return params, stats, info, f"step {step} of {directory}"


def _is_run(directory: str) -> bool:
  """Whether a directory is the workdir of a run, and not of converted weights."""
  return paths.checkpoints(epath.Path(directory).expanduser()).exists()


def class_rows_of(
  directory: str, info: dict[str, Any], names: Sequence[str]
) -> class_rows.ClassRows | None:
  """Where classes stand in saved weights.

  Args:
    directory: workdir of a run, which has noted the names of its classes, or converted weights.
    info: facts that stand beside converted weights; "classes" are the names of their classes.
    names: names of the classes wanted.

  Returns:
    None where nobody knows the names of the saved classes, which is logged.

  Raises:
    ValueError: data.json of the run is damaged.
  """
  saved = run_data.class_names(directory) if _is_run(directory) else info.get("classes")
  if saved is None:
    logging.info("The class names of %s are not known: its classes go by their numbers", directory)
    return None
  return class_rows.ClassRows(saved, names)
