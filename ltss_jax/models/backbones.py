"""The backbones by name: image in, features at strides 4 to 32 out."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import resnet, swin, vit

NAMES = (*resnet.CONFIGS, *swin.CONFIGS, *vit.CONFIGS)
NORMS = ("frozen_batch_norm", "batch_norm")
STRIDE = 32  # of the coarsest features
# Parameters without weight decay: the norms, Swin's position tables.
_UNDECAYED = re.compile(r"(norm\d?|/ln)/(scale|bias)$|/relative_position_bias_table$")


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
  """Which backbone, and how it runs.

  Attributes:
    name: one of `NAMES`.
    norm: norm of ResNets, one of `NORMS`; the others have layer norms.
    dtype: compute dtype, "float32" or "bfloat16"; parameters and statistics stay float32.
    drop_path: stochastic depth of the last block, rising linearly from 0 at the first; -1 takes
      the published one (Swin 0.3, ViT 0.1). ResNets have none.
    remat: recompute every block in the backward pass, for less memory.
    frozen: training leaves it as it is: it runs as in inference, with the running statistics of
      batch norms and without stochastic depth. That its parameters get no gradient is for the
      training step to see to.
    res5_dilation: dilation of ResNets: 2 keeps res5 at stride 16 and dilates its 3x3 convolutions.
  """

  name: str
  norm: str
  dtype: str
  drop_path: float
  remat: bool
  frozen: bool
  res5_dilation: int = 1


def build(config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
  """Constructs a backbone.

  Args:
    config: backbone to build.
    rngs: `rngs.params` draws the initial weights.

  Returns:
    A module with the attribute `out_channels` (of res2, res3, res4, res5) and the call
    `module(image [B, H, W, 3], *, train, rngs=None) -> {"res2": [B, H/4, W/4, C2], "res3": stride
    8, "res4": stride 16, "res5": stride 32}`; in training `rngs.dropout` feeds stochastic depth.

  Raises:
    ValueError: a field has a value that is not offered.
  """
  if config.drop_path != -1 and not 0 <= config.drop_path < 1:
    raise ValueError(f"drop_path={config.drop_path}: give a rate in [0, 1), or -1")
  if config.norm not in NORMS:
    raise ValueError(f"norm={config.norm!r}: choose one of {NORMS}")
  kw = dict(dtype=jnp.dtype(config.dtype), remat=config.remat, rngs=rngs)
  if config.name in resnet.CONFIGS:
    shape = dataclasses.replace(resnet.CONFIGS[config.name], res5_dilation=config.res5_dilation)
    return resnet.ResNet(shape, norm=config.norm, **kw)
  if config.res5_dilation != 1:
    raise ValueError(f"res5_dilation={config.res5_dilation}: {config.name} has no dilation, set 1")
  if config.name in swin.CONFIGS:
    rate = swin.DROP_PATH if config.drop_path == -1 else config.drop_path
    return swin.Swin(swin.CONFIGS[config.name], drop_path=rate, **kw)
  if config.name in vit.CONFIGS:
    rate = vit.DROP_PATH if config.drop_path == -1 else config.drop_path
    return vit.Vit(vit.CONFIGS[config.name], drop_path=rate, **kw)
  raise ValueError(f"backbone {config.name!r}: choose one of {NAMES}")


def decays(path: str) -> bool:
  """Whether weight decay applies to a parameter, of a backbone or of layers like its own."""
  return not _UNDECAYED.search(path)


def pad_to_stride(image: jax.Array, value: float = 0) -> jax.Array:
  """Pads [B, H, W, ...] on the right and bottom to a multiple of 32, which every backbone takes."""
  height, width = image.shape[1:3]
  padding = [(0, 0), (0, -height % STRIDE), (0, -width % STRIDE)] + [(0, 0)] * (image.ndim - 3)
  return jnp.pad(image, padding, constant_values=value)
