"""From the config to what runs: where its fields become models, losses and training pipelines."""

from ltss_jax.build.losses import class_loss
from ltss_jax.build.model import build_architecture, build_objective, model_functions
from ltss_jax.build.optimizer import optimizer_config
from ltss_jax.build.pipeline import train_pipeline_config
from ltss_jax.build.predictor import build_predictor

__all__ = [
  "build_architecture",
  "build_objective",
  "build_predictor",
  "class_loss",
  "model_functions",
  "optimizer_config",
  "train_pipeline_config",
]
