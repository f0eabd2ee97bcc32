"""The state that a new run starts from: random weights, or saved ones that the config names."""

import dataclasses

import jax
import ml_collections
import optax
from absl import logging
from jax.sharding import Mesh

from input_pipeline import class_tables
from ltss_jax import architectures, checkpoint, mesh as mesh_lib, run_config, train_step
from ltss_jax.types import TrainState
from ltss_jax.weights import init


def initial_state(
  config: ml_collections.ConfigDict,
  architecture: architectures.Architecture,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> TrainState:
  """Initialises the state from `config.seed`, and from `config.init.checkpoint` where it is given.

  Args:
    config: of the run.
    architecture: of the config.
    optimizer: of the config.
    mesh: over which the state is replicated.

  Raises:
    ValueError: the saved weights are of another model; all differences are named.
    checkpoint.CheckpointError: they cannot be read.
  """
  state = train_step.init_state(architecture, optimizer, config.seed, mesh)
  directory = config.init.checkpoint
  if not directory:
    if config.data.name in class_tables.NAMES:
      logging.warning(
        "config.init.checkpoint is empty: the backbone starts from random weights, while every "
        "published result of %s starts from ImageNet weights, without which it is far out of reach."
        " docs/conversion.md says where to get and how to convert them.",
        config.data.name,
      )
    return state
  params, stats, info = checkpoint.load_weights(directory)
  if info.get("contents") != "backbone":  # The number of classes alone may differ.
    run_config.check_weights(directory, info, config, info.get("num_classes"))
  fresh = jax.device_get((state.params, state.stats))
  params, stats, changes = init.initial_weights(*fresh, params, stats)
  logging.info("Starting from %s: %s", directory, changes)
  params, stats = jax.device_put((params, stats), mesh_lib.replicated(mesh))
  return dataclasses.replace(state, params=params, stats=stats)
