"""Plain ViT encoders of DINOv2 and DINOv3: one patch size, global attention, registers.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; Darcet et
al., "Vision Transformers Need Registers", ICLR 2024; Simeoni et al., "DINOv3", 2025; layer scale:
Touvron et al., "Going Deeper with Image Transformers", ICCV 2021. Modules are named as in the
published weights, which differ between the two.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ltss_jax.models import initializers, layers, position
from ltss_jax.models.position import Rotation

NUM_REGISTERS = 4
NUM_PREFIX = 1 + NUM_REGISTERS  # the class token and the registers, in front of the patches
# Largest factor of the patches' coordinates in training, and its inverse the smallest.
_ROTARY_RESCALE = 2.0


@dataclasses.dataclass(frozen=True)
class DinoConfig:
  """Shape of an encoder.

  Attributes:
    depth: number of blocks.
    channels: width of the tokens.
    heads: attention heads.
    rotary: positions turn queries and keys (DINOv3); else a learned table is added (DINOv2).
    swiglu: gated feed-forward networks.
    patch: side of a patch in pixels.
  """

  depth: int
  channels: int
  heads: int
  rotary: bool
  swiglu: bool = False
  patch: int = 16


CONFIGS = {
  "dinov2_s": DinoConfig(12, 384, 6, rotary=False),
  "dinov2_b": DinoConfig(12, 768, 12, rotary=False),
  "dinov2_l": DinoConfig(24, 1024, 16, rotary=False),
  "dinov2_g": DinoConfig(40, 1536, 24, rotary=False, swiglu=True),
  "dinov3_s": DinoConfig(12, 384, 6, rotary=True),
  "dinov3_b": DinoConfig(12, 768, 12, rotary=True),
  "dinov3_l": DinoConfig(24, 1024, 16, rotary=True),
  # For CPUs and crops of 128 px, trained from random weights: no published encoder has this shape.
  "vit_small": DinoConfig(6, 128, 4, rotary=False, patch=8),
  # For tests.
  "dinov2_mini": DinoConfig(3, 32, 2, rotary=False),
  "dinov3_mini": DinoConfig(3, 32, 2, rotary=True),
}


@jax.checkpoint
def _weighted_mean(query: jax.Array, key: jax.Array, value: jax.Array, mask) -> jax.Array:
  """What `_attend` computes, of [B, heads, T, D] each.

  The backward pass computes the float32 weights [B, heads, T, T] again: kept, those of all blocks
  take more memory in a training step than everything else. (XLA for CPUs keeps them all the same.)
  """
  kw = dict(preferred_element_type=jnp.float32)
  scale = query.shape[-1] ** -0.5
  logits = jnp.einsum("bhtd,bhsd->bhts", scale * query, key, **kw)
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  x = jnp.einsum("bhts,bhsd->bhtd", weights.astype(value.dtype), value, **kw)
  return (x / weights.sum(-1, keepdims=True)).astype(value.dtype)


def _attend(
  query: jax.Array, key: jax.Array, value: jax.Array, heads: int, mask, rotation
) -> jax.Array:
  """Softmax attention of [B, T, C] with float32 logits; True in the mask: to look.

  Normalised after the product with the values: on CPUs it takes three quarters of the time of
  `jax.nn.dot_product_attention`, with gradient two thirds. Each token looks at one or more others;
  the mask is bool, broadcastable to [B, heads, T, T].
  """
  query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
  if rotation is not None:
    query, key = position.rotate(query, rotation), position.rotate(key, rotation)
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # [B, heads, T, D]
  x = _weighted_mean(query, key, value, mask)
  return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Attention(nnx.Module):
  """DINOv2's: one packed projection."""

  def __init__(self, channels: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.qkv = layers.Linear(channels, 3 * channels, **kw)
    self.proj = layers.Linear(channels, channels, **kw)
    self.heads = heads

  def __call__(self, x: jax.Array, mask: jax.Array | None, rotation: None) -> jax.Array:
    del rotation  # positions are in the tokens
    return self.proj(_attend(*jnp.split(self.qkv(x), 3, -1), self.heads, mask, None))


class RotaryAttention(nnx.Module):
  """DINOv3's: projections of their own, that of the keys without a bias."""

  def __init__(self, channels: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.q_proj = layers.Linear(channels, channels, **kw)
    self.k_proj = layers.Linear(channels, channels, use_bias=False, **kw)
    self.v_proj = layers.Linear(channels, channels, **kw)
    self.o_proj = layers.Linear(channels, channels, **kw)
    self.heads = heads

  def __call__(self, x: jax.Array, mask: jax.Array | None, rotation: Rotation) -> jax.Array:
    query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
    return self.o_proj(_attend(query, key, value, self.heads, mask, rotation))


class SwiGlu(nnx.Module):
  """Gated feed-forward network: SiLU of one half of the hidden channels times the other.

  Shazeer, "GLU Variants Improve Transformer", 2020, with DINOv2's width of 8/3 C.
  """

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    hidden = 8 * channels // 3
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.fc1 = layers.Linear(channels, 2 * hidden, **kw)  # [gate, value]
    self.fc2 = layers.Linear(hidden, channels, **kw)

  def __call__(self, x: jax.Array) -> jax.Array:
    gate, value = jnp.split(self.fc1(x), 2, -1)
    return self.fc2(nnx.silu(gate) * value)


class RotaryMlp(nnx.Module):
  """DINOv3's feed-forward network: `layers.Mlp` under other names."""

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.up_proj = layers.Linear(channels, 4 * channels, **kw)
    self.down_proj = layers.Linear(4 * channels, channels, **kw)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down_proj(layers.gelu(self.up_proj(x)))


class LayerScale(nnx.Module):
  """A factor for every channel of a branch, 1 at first, under the name that it has in weights."""

  def __init__(self, channels: int, name: str):
    self.name = name
    setattr(self, name, nnx.Param(jnp.ones(channels)))

  def __call__(self, x: jax.Array) -> jax.Array:
    return x * getattr(self, self.name)[...]  # float32, as the stream that it is added to


class Block(nnx.Module):
  """DINOv2's: attention and MLP, each normalised first, scaled, and added to a float32 stream."""

  def __init__(self, config: DinoConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    channels, kw = config.channels, dict(dtype=dtype, rngs=rngs)
    self.norm1 = layers.layer_norm(channels, 1e-6, **kw)
    self.attn = Attention(channels, config.heads, **kw)
    self.ls1 = LayerScale(channels, "gamma")
    self.norm2 = layers.layer_norm(channels, 1e-6, **kw)
    self.mlp = SwiGlu(channels, **kw) if config.swiglu else layers.Mlp(channels, 4 * channels, **kw)
    self.ls2 = LayerScale(channels, "gamma")

  def __call__(self, x: jax.Array, mask: jax.Array | None, rotation: None) -> jax.Array:
    x = x + self.ls1(self.attn(self.norm1(x), mask, rotation))
    return x + self.ls2(self.mlp(self.norm2(x)))


class RotaryBlock(nnx.Module):
  """DINOv3's, likewise."""

  def __init__(self, config: DinoConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    channels, kw = config.channels, dict(dtype=dtype, rngs=rngs)
    self.norm1 = layers.layer_norm(channels, 1e-5, **kw)
    self.attention = RotaryAttention(channels, config.heads, **kw)
    self.layer_scale1 = LayerScale(channels, "lambda1")
    self.norm2 = layers.layer_norm(channels, 1e-5, **kw)
    self.mlp = RotaryMlp(channels, **kw)
    self.layer_scale2 = LayerScale(channels, "lambda1")

  def __call__(self, x: jax.Array, mask: jax.Array | None, rotation: Rotation) -> jax.Array:
    x = x + self.layer_scale1(self.attention(self.norm1(x), mask, rotation))
    return x + self.layer_scale2(self.mlp(self.norm2(x)))


def _patches(image: jax.Array, conv: nnx.Conv, patch: int, dtype: jnp.dtype) -> jax.Array:
  """[B, H, W, 3] -> [B, H / patch * W / patch, C]: a convolution as one matrix product."""
  batch, height, width, _ = image.shape
  if height % patch or width % patch:
    raise ValueError(
      f"image of {height} x {width}: its sides must be multiples of the patch {patch}"
    )
  x = image.reshape(batch, height // patch, patch, width // patch, patch, 3).swapaxes(2, 3)
  x = x.reshape(batch, -1, patch * patch * 3).astype(dtype)
  kernel = conv.kernel[...].astype(dtype)
  return x @ kernel.reshape(-1, kernel.shape[-1]) + conv.bias[...].astype(dtype)


def _patch_conv(config: DinoConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Conv:
  """Holds the weights of the patch projection."""
  size = (config.patch, config.patch)
  kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
  return nnx.Conv(3, config.channels, size, strides=size, padding="VALID", **kw)


def _token(count: int, channels: int, rngs: nnx.Rngs) -> nnx.Param:
  return nnx.Param(initializers.truncated_normal(rngs.params(), (1, count, channels)))


class PatchEmbed(nnx.Module):
  """DINOv2's patch projection."""

  def __init__(self, config: DinoConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    self.proj = _patch_conv(config, dtype, rngs)
    self.patch, self.dtype = config.patch, dtype

  def __call__(self, image: jax.Array) -> jax.Array:
    return _patches(image, self.proj, self.patch, self.dtype)


class RotaryPatchEmbed(nnx.Module):
  """DINOv3's patch projection, and the tokens in front of the patches."""

  def __init__(self, config: DinoConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    self.cls_token = _token(1, config.channels, rngs)
    self.register_tokens = _token(NUM_REGISTERS, config.channels, rngs)
    self.patch_embeddings = _patch_conv(config, dtype, rngs)
    self.patch, self.dtype = config.patch, dtype

  def __call__(self, image: jax.Array) -> jax.Array:
    return _patches(image, self.patch_embeddings, self.patch, self.dtype)


class Dino(Protocol):
  """What both encoders offer: the tokens of an image, their blocks and the final norm.

  `blocks` are called one by one as block(x, mask, rotation), since a segmenter adds tokens of its
  own in front between them.
  """

  config: DinoConfig
  blocks: nnx.List
  norm: nnx.LayerNorm

  def embed(self, image: jax.Array) -> jax.Array:
    """Normalised image [B, H, W, 3] -> float32 tokens [B, 1 + registers + N, C].

    Raises:
      ValueError: H or W is no multiple of the patch, or the encoder has positions for other sizes.
    """

  def rotation(self, image: jax.Array, rngs: nnx.Rngs | None) -> Rotation | None:
    """Rotary positions of an image's patches; None where positions are in the tokens.

    Args:
      image: [B, H, W, 3].
      rngs: in training, `rngs.dropout` draws the factor of the coordinates; None for none.
    """


class DinoV2(nnx.Module):
  """Positions are a learned table for one size of square images."""

  def __init__(self, config: DinoConfig, side: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    """`side` of the images, in pixels."""
    channels, kw = config.channels, dict(dtype=dtype, rngs=rngs)
    self.config, self.side = config, side
    self.patch_embed = PatchEmbed(config, **kw)
    self.cls_token = _token(1, channels, rngs)
    self.reg_token = _token(NUM_REGISTERS, channels, rngs)
    self.pos_embed = _token((side // config.patch) ** 2, channels, rngs)
    self.blocks = nnx.List(Block(config, **kw) for _ in range(config.depth))
    self.norm = layers.layer_norm(channels, 1e-6, **kw)

  def embed(self, image: jax.Array) -> jax.Array:
    if image.shape[1:3] != (self.side, self.side):
      raise ValueError(f"image of {image.shape[1:3]}: the positions are for a side of {self.side}")
    patches = self.patch_embed(image) + self.pos_embed[...]
    return _with_prefix(patches, self.cls_token, self.reg_token)

  def rotation(self, image: jax.Array, rngs: nnx.Rngs | None) -> None:
    del image, rngs


class DinoV3(nnx.Module):
  """Positions are rotary: any size of images."""

  def __init__(self, config: DinoConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(dtype=dtype, rngs=rngs)
    self.config = config
    self.patch_embed = RotaryPatchEmbed(config, **kw)
    self.blocks = nnx.List(RotaryBlock(config, **kw) for _ in range(config.depth))
    self.norm = layers.layer_norm(config.channels, 1e-5, **kw)

  def embed(self, image: jax.Array) -> jax.Array:
    tokens = self.patch_embed.cls_token, self.patch_embed.register_tokens
    return _with_prefix(self.patch_embed(image), *tokens)

  def rotation(self, image: jax.Array, rngs: nnx.Rngs | None) -> Rotation:
    height, width = (side // self.config.patch for side in image.shape[1:3])
    rescale = 1.0
    if rngs is not None:
      bound = np.log(_ROTARY_RESCALE)
      rescale = jnp.exp(jax.random.uniform(rngs.dropout(), minval=-bound, maxval=bound))
    return position.rotary_positions(
      height, width, self.config.channels // self.config.heads, rescale
    )


def _with_prefix(patches: jax.Array, *tokens: nnx.Param) -> jax.Array:
  """[B, N, C] -> float32 [B, prefix + N, C]."""
  shape = (patches.shape[0], -1, patches.shape[-1])
  prefix = [jnp.broadcast_to(t[...], (shape[0], *t.shape[1:])) for t in tokens]
  return jnp.concatenate([*prefix, patches.astype(jnp.float32)], axis=1)


def build(name: str, side: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> Dino:
  """Constructs an encoder.

  Args:
    name: a key of `CONFIGS`.
    side: of the square images, in pixels, where positions are learned.
    dtype: of the computation; parameters and the residual stream are float32.
    rngs: `rngs.params` draws the initial weights.
  """
  config = CONFIGS[name]
  if config.rotary:
    return DinoV3(config, dtype=dtype, rngs=rngs)
  return DinoV2(config, side, dtype=dtype, rngs=rngs)


def layers_above(name: str, path: str) -> int:
  """Number of blocks between a parameter of an encoder and the encoder's end.

  Args:
    name: a key of `CONFIGS`.
    path: path of the parameter within the encoder: "blocks/3/norm1/scale".

  Returns:
    0 for the last block and the final norm; patches, tokens and positions count as the first block.
  """
  parts = path.split("/")
  if parts[0] == "norm":
    return 0
  block = int(parts[1]) if parts[0] == "blocks" else 0
  return CONFIGS[name].depth - 1 - block
