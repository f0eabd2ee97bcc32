"""The optimizer of a config."""

import ml_collections

from ltss_jax import optimizer


def optimizer_config(config: ml_collections.ConfigDict) -> optimizer.OptimizerConfig:
  """The recipe of `config.optimizer`, over `config.train.steps` updates."""
  return optimizer.OptimizerConfig(steps=config.train.steps, **config.optimizer.to_dict())
