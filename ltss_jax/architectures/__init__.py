"""The seam where models plug into the train step and the evaluation, one module for each model."""

from ltss_jax.architectures.architecture import Architecture, normalize
from ltss_jax.architectures.deeplabv3plus import deeplabv3plus_architecture
from ltss_jax.architectures.mask2former import mask2former_architecture

__all__ = [
  "Architecture",
  "deeplabv3plus_architecture",
  "mask2former_architecture",
  "normalize",
]
