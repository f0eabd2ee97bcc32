"""ResNet backbone as detectron2 builds it: the stride sits in the 3x3 convolution.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import layers


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
  """Shape of a ResNet.

  Attributes:
    depths: number of blocks of the stages res2, res3, res4, res5.
    stem_channels: width of the 7x7 stem.
    out_channels: width of the stages' outputs.
    bottleneck: 1x1-3x3-1x1 blocks with a fourth of the output width inside; else two 3x3.
    res5_dilation: 1 gives res5 at stride 32, 2 gives stride 16 with every 3x3 dilated by 2.
  """

  depths: tuple[int, int, int, int]
  stem_channels: int
  out_channels: tuple[int, int, int, int]
  bottleneck: bool
  res5_dilation: int = 1


CONFIGS = {
  "resnet50": ResNetConfig((3, 4, 6, 3), 64, (256, 512, 1024, 2048), bottleneck=True),
  "resnet101": ResNetConfig((3, 4, 23, 3), 64, (256, 512, 1024, 2048), bottleneck=True),
  # For two CPU cores: 3x3 convolutions run several times faster there than thin 1x1 ones.
  "resnet_small": ResNetConfig((1, 1, 1, 1), 32, (32, 64, 128, 256), bottleneck=False),
}


class Block(nnx.Module):
  """Residual block; the shortcut is a 1x1 convolution and norm where the shape changes."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    *,
    bottleneck: bool,
    stride: int,
    dilation: int,
    norm: str,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(norm=norm, dtype=dtype, rngs=rngs)
    if bottleneck:
      mid = out_channels // 4
      self.conv1 = layers.ConvNorm(in_channels, mid, 1, **kw)
      self.conv2 = layers.ConvNorm(mid, mid, 3, stride=stride, dilation=dilation, **kw)
      self.conv3 = layers.ConvNorm(mid, out_channels, 1, **kw)
    else:
      self.conv1 = layers.ConvNorm(
        in_channels, out_channels, 3, stride=stride, dilation=dilation, **kw
      )
      self.conv2 = layers.ConvNorm(out_channels, out_channels, 3, dilation=dilation, **kw)
      self.conv3 = None
    changes = in_channels != out_channels or stride != 1
    self.shortcut = (
      layers.ConvNorm(in_channels, out_channels, 1, stride=stride, **kw) if changes else None
    )

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    y = nnx.relu(self.conv1(x, train=train))
    y = self.conv2(y, train=train)
    if self.conv3 is not None:
      y = self.conv3(nnx.relu(y), train=train)
    if self.shortcut is not None:
      x = self.shortcut(x, train=train)
    return nnx.relu(y + x)


class ResNet(nnx.Module):
  """Multi-scale features of an image."""

  def __init__(
    self,
    config: ResNetConfig,
    *,
    norm: str = "batch_norm",
    remat: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    self.out_channels = config.out_channels
    self.remat = remat
    kw = dict(norm=norm, dtype=dtype, rngs=rngs)
    self.stem = layers.ConvNorm(3, config.stem_channels, 7, stride=2, **kw)
    channels = config.stem_channels
    stages = []
    for stage, (depth, width) in enumerate(zip(config.depths, config.out_channels, strict=True)):
      dilation = config.res5_dilation if stage == 3 else 1
      stride = 1 if stage == 0 or dilation > 1 else 2
      blocks = []
      for i in range(depth):
        blocks.append(
          Block(
            channels,
            width,
            bottleneck=config.bottleneck,
            stride=stride if i == 0 else 1,
            dilation=dilation,
            **kw,
          )
        )
        channels = width
      stages.append(nnx.List(blocks))
    self.res2, self.res3, self.res4, self.res5 = stages

  def __call__(
    self, image: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
  ) -> dict[str, jax.Array]:
    """Runs the backbone.

    Args:
      image: [B, H, W, 3] normalised image.
      train: whether batch norm that is not frozen uses (and updates from) the batch's statistics.
      rngs: not used; other backbones draw from it.

    Returns:
      {"res2": [B, H/4, W/4, C2], "res3": stride 8, "res4": stride 16, "res5": stride 32 or 16};
      sizes are rounded up.
    """
    x = layers.max_pool_3x3_stride_2(nnx.relu(self.stem(image, train=train)))  # [B, H/4, W/4, C]
    features = {}
    for name in ("res2", "res3", "res4", "res5"):
      for block in getattr(self, name):
        x = layers.call_block(block, x, remat=self.remat, train=train)
      features[name] = x
    return features
