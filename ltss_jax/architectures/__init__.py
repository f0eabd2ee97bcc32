"""The seam where models plug into the train step and the evaluation, one module for each model."""

from ltss_jax.architectures import deeplabv3plus, eomt, mask2former
from ltss_jax.architectures.architecture import (
  Architecture,
  ArchitectureSpec,
  Objective,
  ScoreBlocks,
  normalize,
)

# Under the names of config.model.name.
SPECS = {
  "mask2former": mask2former.SPEC,
  "deeplabv3plus": deeplabv3plus.SPEC,
  "eomt": eomt.SPEC,
}

__all__ = [
  "SPECS",
  "Architecture",
  "ArchitectureSpec",
  "Objective",
  "ScoreBlocks",
  "normalize",
]
