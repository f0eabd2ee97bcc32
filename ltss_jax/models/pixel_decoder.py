"""Pixel decoder of Mask2Former: deformable attention over three scales, then one FPN step.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022; the
encoder is that of Zhu et al., "Deformable DETR", ICLR 2021. Always float32, as in the release.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kernels.ms_deform_attn import ms_deform_attn
from ltss_jax.models import attention, initializers, layers, position

_NUM_GROUPS = 32  # of every group norm


@dataclasses.dataclass(frozen=True)
class PixelDecoderConfig:
  """Shape of a pixel decoder.

  Attributes:
    channels: width of the encoder, of the memory and of the mask features.
    num_layers: encoder layers.
    num_heads: heads of the deformable attention.
    feed_forward_width: hidden width of the encoder layers' feed-forward part.
    remat: recompute the encoder layers in the backward pass instead of keeping their insides.
    num_points: points that each head samples in each level.
    implementation: implementation of `ms_deform_attn`; None for the platform's best.
  """

  channels: int
  num_layers: int
  num_heads: int
  feed_forward_width: int
  remat: bool
  num_points: int = 4
  implementation: str | None = None


NUM_LEVELS = 3  # res5, res4, res3


class ConvGroupNorm(nnx.Module):
  """Convolution, then group norm over 32 groups (eps 1e-5)."""

  def __init__(
    self, in_channels: int, channels: int, kernel_size: int, *, kernel_init, use_bias: bool, rngs
  ):
    self.conv = layers.Conv(
      in_channels,
      channels,
      (kernel_size, kernel_size),
      use_bias=use_bias,
      kernel_init=kernel_init,
      dtype=jnp.float32,
      rngs=rngs,
    )
    self.norm = nnx.GroupNorm(
      channels, _NUM_GROUPS, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.norm(self.conv(x))


def _spread_offsets(num_heads: int, num_points: int) -> nnx.Initializer:
  """Bias of the sampling offsets: head h points along the angle 2 pi h / heads, in steps of 1."""
  angle = 2 * np.pi * np.arange(num_heads) / num_heads
  direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  direction /= np.abs(direction).max(-1, keepdims=True)  # onto the boundary of the unit square
  steps = np.arange(1, num_points + 1)[:, None]
  offsets = np.broadcast_to(
    direction[:, None, None] * steps, (num_heads, NUM_LEVELS, num_points, 2)
  )
  return lambda key, shape, dtype: jnp.asarray(offsets.reshape(shape), dtype)


class DeformableAttention(nnx.Module):
  """Multi-scale deformable attention with its projections."""

  def __init__(self, config: PixelDecoderConfig, rngs: nnx.Rngs):
    width, samples = config.channels, config.num_heads * NUM_LEVELS * config.num_points
    zeros = dict(kernel_init=nnx.initializers.zeros, dtype=jnp.float32, rngs=rngs)
    xavier = dict(kernel_init=initializers.xavier_uniform, dtype=jnp.float32, rngs=rngs)
    bias = _spread_offsets(config.num_heads, config.num_points)
    self.sampling_offsets = layers.Linear(width, 2 * samples, bias_init=bias, **zeros)
    self.attention_weights = layers.Linear(width, samples, **zeros)
    self.value_proj = layers.Linear(width, width, **xavier)
    self.output_proj = layers.Linear(width, width, **xavier)
    self.num_heads, self.num_points = config.num_heads, config.num_points
    self.implementation = config.implementation

  def __call__(
    self,
    query: jax.Array,
    source: jax.Array,
    reference: jax.Array,
    shapes: tuple[tuple[int, int], ...],
  ) -> jax.Array:
    """Samples the source around each query.

    Args:
      query: [B, S, C], with the position added.
      source: [B, S, C], the cells of all levels, without the position.
      reference: [S, 2], normalised (x, y) of each query's own cell.
      shapes: (height, width) of each level.

    Returns:
      [B, S, C].
    """
    heads, points, levels = self.num_heads, self.num_points, len(shapes)
    batch, cells, width = source.shape
    value = self.value_proj(source).reshape(batch, cells, heads, width // heads)
    offsets = self.sampling_offsets(query).reshape(batch, cells, heads, levels, points, 2)
    weights = self.attention_weights(query).reshape(batch, cells, heads, levels * points)
    weights = jax.nn.softmax(weights).reshape(batch, cells, heads, levels, points)
    size = jnp.array([(w, h) for h, w in shapes], jnp.float32)[:, None]  # [L, 1, 2]
    locations = reference[:, None, None, None] + offsets / size  # [B, S, heads, L, P, 2]
    attended = ms_deform_attn(value, shapes, locations, weights, implementation=self.implementation)
    return self.output_proj(attended)


class EncoderLayer(nnx.Module):
  """Deformable attention and feed-forward network, each followed by addition and LayerNorm."""

  def __init__(self, config: PixelDecoderConfig, rngs: nnx.Rngs):
    self.self_attn = DeformableAttention(config, rngs)
    self.norm1 = attention.layer_norm(config.channels, rngs)
    self.linear1, self.linear2 = attention.feed_forward_layers(
      config.channels, config.feed_forward_width, dtype=jnp.float32, rngs=rngs
    )
    self.norm2 = attention.layer_norm(config.channels, rngs)

  def __call__(self, x, position_term, reference, shapes):
    x = self.norm1(x + self.self_attn(x + position_term, x, reference, shapes))
    return self.norm2(x + self.linear2(nnx.relu(self.linear1(x))))


def _cell_centres(shapes: tuple[tuple[int, int], ...]) -> jax.Array:
  """Normalised (x, y) of the cells of all levels, row by row: [S, 2]."""
  centres = []
  for height, width in shapes:
    y, x = np.meshgrid(
      (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
    )
    centres.append(np.stack([x.ravel(), y.ravel()], axis=-1))
  return jnp.asarray(np.concatenate(centres), jnp.float32)


class PixelDecoder(nnx.Module):
  """From backbone features to mask features and the memory of the transformer decoder."""

  def __init__(
    self, in_channels: tuple[int, int, int, int], config: PixelDecoderConfig, *, rngs: nnx.Rngs
  ):
    width = config.channels
    projection = dict(kernel_init=initializers.xavier_uniform, use_bias=True, rngs=rngs)
    fpn = dict(kernel_init=initializers.uniform_fan_in, use_bias=False, rngs=rngs)
    self.input_proj = nnx.List(
      [ConvGroupNorm(in_channels[i], width, 1, **projection) for i in (3, 2, 1)]
    )
    self.level_embed = nnx.Param(initializers.normal(1.0)(rngs.params(), (NUM_LEVELS, width)))
    self.layers = nnx.List([EncoderLayer(config, rngs) for _ in range(config.num_layers)])
    self.adapter_1 = ConvGroupNorm(in_channels[0], width, 1, **fpn)
    self.layer_1 = ConvGroupNorm(width, width, 3, **fpn)
    self.mask_features = layers.Conv(
      width, width, (1, 1), kernel_init=initializers.uniform_fan_in, dtype=jnp.float32, rngs=rngs
    )
    self.remat = config.remat

  def __call__(self, features: dict[str, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Decodes.

    Args:
      features: "res2" to "res5" of a backbone, [B, h, w, C] at strides 4 to 32.

    Returns:
      (mask features [B, H/4, W/4, C], memory: three maps [B, h, w, C] at strides 32, 16, 8), all
      float32.
    """
    features = {name: x.astype(jnp.float32) for name, x in features.items()}
    maps = [
      project(features[name])
      for project, name in zip(self.input_proj, ("res5", "res4", "res3"), strict=True)
    ]
    memory = self._encode(maps)
    upsampled = layers.resize_bilinear(memory[-1], *features["res2"].shape[1:3])
    fused = self.adapter_1(features["res2"]) + upsampled
    return self.mask_features(nnx.relu(self.layer_1(fused))), memory

  def _encode(self, maps: list[jax.Array]) -> tuple[jax.Array, ...]:
    batch, width = maps[0].shape[0], maps[0].shape[-1]
    shapes = tuple(x.shape[1:3] for x in maps)
    x = jnp.concatenate([x.reshape(batch, -1, width) for x in maps], axis=1)  # [B, S, C]
    position_term = jnp.concatenate(
      [
        position.sine_encoding(*shape, width).reshape(-1, width) + self.level_embed[level]
        for level, shape in enumerate(shapes)
      ]
    )  # [S, C]
    reference = _cell_centres(shapes)

    def run(layer, x):
      return layer(x, position_term, reference, shapes)

    run = nnx.remat(run) if self.remat else run
    for layer in self.layers:
      x = run(layer, x)
    ends = np.cumsum([h * w for h, w in shapes])[:-1]
    return tuple(
      part.reshape(batch, *shape, width)
      for part, shape in zip(jnp.split(x, ends, axis=1), shapes, strict=True)
    )
