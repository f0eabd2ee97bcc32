"""Checkpoints of runs and converted weights: every Orbax call of the project."""

from ltss_jax.checkpoint.loading import CheckpointError, DamagedCheckpointError
from ltss_jax.checkpoint.run import BEST, LATEST, METRIC, Checkpoints
from ltss_jax.checkpoint.weights import load_weights, read_info, save_weights

__all__ = [
  "BEST",
  "LATEST",
  "METRIC",
  "CheckpointError",
  "Checkpoints",
  "DamagedCheckpointError",
  "load_weights",
  "read_info",
  "save_weights",
]
