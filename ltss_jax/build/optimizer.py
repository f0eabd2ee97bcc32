"""The optimizer of a config."""

import ml_collections

from ltss_jax import optimizer
from ltss_jax.build.fields import fields_of


def optimizer_config(config: ml_collections.ConfigDict) -> optimizer.OptimizerConfig:
  """The recipe of `config.optimizer`, over `config.train.steps` updates."""
  values = fields_of(optimizer.OptimizerConfig, config.optimizer)
  return optimizer.OptimizerConfig(**values, steps=config.train.steps)
