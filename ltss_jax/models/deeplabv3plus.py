"""DeepLabV3+: atrous spatial pyramid pooling on res5, decoded with res2 to stride 4.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
ECCV 2018; the variant (plain convolutions, one low-level feature) is detectron2's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import backbones, functional, initializers, layers

# Pixels of the image for a cell of the dilated res5.
_RES5_STRIDE = 16


@dataclasses.dataclass(frozen=True)
class DeepLabV3PlusConfig:
  """Shape of a DeepLabV3+.

  Attributes:
    num_classes: C, without the ignore label.
    backbone: a ResNet, which is dilated here; the head's norms are always batch norms.
    dtype: compute dtype of the head, "float32" or "bfloat16"; parameters and statistics stay
      float32.
    aspp_channels: width of each pyramid branch and of their projection.
    aspp_dilations: dilations of the three 3x3 branches, in res5 cells.
    aspp_dropout: drop rate after the projection, in training.
    low_level_channels: width to which res2 is projected.
    decoder_channels: width of the two 3x3 decoder convolutions.
    image_pooling: "global": the image-pooling branch averages the whole map; "window": over windows
      of the training crop's size, as the release has it, where the map is a multiple of them.
    crop_size: side of a training crop in pixels.
  """

  num_classes: int
  backbone: backbones.BackboneConfig
  dtype: str
  aspp_channels: int
  aspp_dilations: tuple[int, ...]
  aspp_dropout: float
  low_level_channels: int
  decoder_channels: int
  image_pooling: str
  crop_size: int

  @property
  def pooling_window(self) -> int:
    """Side in res5 cells of the image-pooling branch's average window; 0 for the whole map."""
    return self.crop_size // _RES5_STRIDE if self.image_pooling == "window" else 0


class Aspp(nnx.Module):
  """Atrous spatial pyramid pooling: 1x1, dilated 3x3s and image pooling side by side."""

  def __init__(self, in_channels: int, config: DeepLabV3PlusConfig, rngs: nnx.Rngs):
    dtype, width = jnp.dtype(config.dtype), config.aspp_channels
    kw = dict(kernel_init=initializers.uniform_fan_in, dtype=dtype, rngs=rngs)
    self.branches = nnx.List(
      [layers.ConvNorm(in_channels, width, 1, **kw)]
      + [layers.ConvNorm(in_channels, width, 3, dilation=d, **kw) for d in config.aspp_dilations]
    )
    self.image_pool = nnx.Conv(in_channels, width, (1, 1), **kw)
    self.project = layers.ConvNorm(width * (len(self.branches) + 1), width, 1, **kw)
    self.dropout = nnx.Dropout(config.aspp_dropout)
    self.window = config.pooling_window

  def pool(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 1, 1, C], or [B, H-w+1, W-w+1, C] where the w x w window applies."""
    window, (height, width) = self.window, x.shape[1:3]
    if not window or height % window or width % window:
      return x.mean((1, 2), keepdims=True)
    return nnx.avg_pool(x, (window, window), strides=(1, 1))

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    maps = [nnx.relu(branch(x, train=train)) for branch in self.branches]
    pooled = nnx.relu(self.image_pool(self.pool(x)))
    maps.append(layers.resize_bilinear(pooled, *x.shape[1:3]))
    x = nnx.relu(self.project(jnp.concatenate(maps, axis=-1), train=train))
    return self.dropout(x, deterministic=not train, rngs=rngs)


class DeepLabV3Plus(nnx.Module):
  """Per-pixel classifier at stride 4."""

  def __init__(self, config: DeepLabV3PlusConfig, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    backbone = dataclasses.replace(config.backbone, res5_dilation=2)
    kw = dict(kernel_init=initializers.uniform_fan_in, dtype=dtype, rngs=rngs)
    self.backbone = backbones.build(backbone, rngs=rngs)
    self.frozen_backbone = config.backbone.frozen
    channels = self.backbone.out_channels
    self.aspp = Aspp(channels[3], config, rngs)
    self.low_level = layers.ConvNorm(channels[0], config.low_level_channels, 1, **kw)
    fused = config.aspp_channels + config.low_level_channels
    width = config.decoder_channels
    self.fuse = nnx.List(
      [layers.ConvNorm(fused, width, 3, **kw), layers.ConvNorm(width, width, 3, **kw)]
    )
    self.classifier = nnx.Conv(
      width,
      config.num_classes,
      (1, 1),
      kernel_init=initializers.normal(0.001),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, image: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Scores every class at stride 4.

    Args:
      image: [B, H, W, 3] float32, normalised, not padded.
      train: batch statistics and dropout (which draws from `rngs.dropout`).
      rngs: needed in training.

    Returns:
      [B, ceil(H/4), ceil(W/4), C] float32 logits; `full_resolution` brings them to the pixels.
    """
    features = self.backbone(image, train=train and not self.frozen_backbone, rngs=rngs)
    x = self.aspp(features["res5"], train=train, rngs=rngs)
    low = nnx.relu(self.low_level(features["res2"], train=train))
    x = layers.resize_bilinear(x, *low.shape[1:3])
    x = jnp.concatenate([low, x], axis=-1)  # [B, H/4, W/4, low + aspp]
    for conv in self.fuse:
      x = nnx.relu(conv(x, train=train))
    return self.classifier(x).astype(jnp.float32)


def functions(config: DeepLabV3PlusConfig) -> functional.Functional:
  """The model as pure functions."""
  return functional.functional(lambda rngs: DeepLabV3Plus(config, rngs=rngs))


def full_resolution(logits: jax.Array, height: int, width: int) -> jax.Array:
  """Upsamples stride-4 logits by 4 and cuts them on the right and bottom to the input size.

  Args:
    logits: [B, ceil(height/4), ceil(width/4), C].
    height: height of the model's input in pixels.
    width: width of the model's input in pixels.

  Returns:
    [B, height, width, C].
  """
  x = layers.resize_bilinear(logits, 4 * logits.shape[1], 4 * logits.shape[2])
  return x[:, :height, :width]
