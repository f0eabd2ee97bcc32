"""Plain ViT backbone with MAE weights and a simple feature pyramid.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; He et al., "Masked Autoencoders Are
Scalable Vision Learners", CVPR 2022; windows, relative positions and pyramid: Li et al.,
"Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ltss_jax.models import bicubic, initializers, layers

DROP_PATH = 0.1
_BLOCK_EPSILON = 1e-5
_PYRAMID_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class VitConfig:
  """Shape of a plain ViT and its pyramid.

  Attributes:
    depth: number of blocks.
    channels: width of the blocks.
    heads: attention heads.
    window: side of the attention windows in cells.
    global_blocks: indices of the blocks that attend to the whole map instead.
    grid: side in cells of the map that the position embedding is for.
    pyramid_channels: width of the outputs.
    patch: side of a patch in pixels.
  """

  depth: int
  channels: int
  heads: int
  window: int
  global_blocks: tuple[int, ...]
  grid: int
  pyramid_channels: int
  patch: int = 16


CONFIGS = {
  "vit_b": VitConfig(12, 768, 12, 14, (2, 5, 8, 11), grid=14, pyramid_channels=256),
  # For tests.
  "vit_mini": VitConfig(4, 32, 2, 3, (1, 3), grid=4, pyramid_channels=16),
}


def sin_cos_position_embedding(grid: int, channels: int) -> np.ndarray:
  """MAE's fixed embedding: [1, grid * grid, C], sines and cosines of x, then those of y."""
  frequency = 10000.0 ** -(np.arange(channels // 4) / (channels // 4))
  y, x = np.divmod(np.arange(grid * grid), grid)
  angles = [position[:, None] * frequency for position in (x, y)]
  parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
  return np.concatenate(parts, axis=1, dtype=np.float32)[None]


class FrozenPatchEmbed(nnx.Module):
  """Patches, projected by weights of the checkpoint that are not trained."""

  def __init__(self, config: VitConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    shape = (config.patch, config.patch, 3, config.channels)
    self.proj = FrozenProjection(shape, rngs)
    self.patch, self.dtype = config.patch, dtype

  def __call__(self, image: jax.Array) -> jax.Array:
    """[B, H, W, 3] -> [B, H/patch, W/patch, C]."""
    batch, height, width, _ = image.shape
    p = self.patch
    if height % p or width % p:
      raise ValueError(f"image of {height} x {width}: pad it to multiples of the patch size {p}")
    x = image.reshape(batch, height // p, p, width // p, p, 3).astype(self.dtype)
    x = jnp.einsum("bypxqi,pqio->byxo", x, self.proj.kernel[...].astype(self.dtype))
    return x + self.proj.bias[...].astype(self.dtype)


class FrozenProjection(nnx.Module):
  """Kernel and bias of the patch embedding."""

  def __init__(self, shape: tuple[int, ...], rngs: nnx.Rngs):
    self.kernel = layers.Frozen(initializers.uniform_fan_in(rngs.params(), shape))
    self.bias = layers.Frozen(jnp.zeros(shape[-1]))


class Attention(nnx.Module):
  """Multi-head attention, within windows with decomposed relative positions or global without."""

  def __init__(self, channels: int, heads: int, window: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    """`window` 0 attends to the whole map."""
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.qkv = layers.Linear(channels, 3 * channels, **kw)
    self.proj = layers.Linear(channels, channels, **kw)
    if window:
      self.rel_pos_h = nnx.Param(jnp.zeros((2 * window - 1, channels // heads)))
      self.rel_pos_w = nnx.Param(jnp.zeros((2 * window - 1, channels // heads)))
    self.heads, self.window = heads, window

  def relative_bias(self, query: jax.Array) -> jax.Array:
    """Query [B, N, w * w, heads, D] (scaled) -> logit offsets [B, N, heads, w * w, w * w]."""
    window = self.window
    cells = np.arange(window)
    index = cells[:, None] - cells + window - 1  # [w, w]: row of the table for (query, key)
    table_y = self.rel_pos_h[...].astype(query.dtype)[index]  # [w, w, D]
    table_x = self.rel_pos_w[...].astype(query.dtype)[index]
    query = query.reshape(*query.shape[:2], window, window, *query.shape[3:])
    kw = dict(preferred_element_type=jnp.float32)
    bias_y = jnp.einsum("bnyxhd,ykd->bnhyxk", query, table_y, **kw)
    bias_x = jnp.einsum("bnyxhd,xkd->bnhyxk", query, table_x, **kw)
    bias = bias_y[..., :, None] + bias_x[..., None, :]  # [B, N, heads, w, w, w, w]
    return bias.reshape(*bias.shape[:3], window * window, window * window)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> the same; the zeros that pad the windows are attended like any cell."""
    batch, height, width, channels = x.shape
    if not self.window:
      x = x.reshape(batch, 1, height * width, channels)
      x = layers.attend(*layers.split_heads(self.qkv(x), self.heads))
      return self.proj(x).reshape(batch, height, width, channels)
    qkv = self.qkv(layers.to_windows(x, self.window))
    query, key, value = layers.split_heads(qkv, self.heads)
    x = self.proj(layers.attend(query, key, value, self.relative_bias(query)))
    return layers.from_windows(x, self.window, height, width)


class Block(nnx.Module):
  """Attention and MLP, each normalised first and added to a float32 stream."""

  def __init__(
    self,
    channels: int,
    heads: int,
    *,
    window: int,
    drop_path: float,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(dtype=dtype, rngs=rngs)
    self.norm1 = layers.layer_norm(channels, _BLOCK_EPSILON, **kw)
    self.attn = Attention(channels, heads, window, **kw)
    self.norm2 = layers.layer_norm(channels, _BLOCK_EPSILON, **kw)
    self.mlp = layers.Mlp(channels, 4 * channels, **kw)
    self.drop_path = drop_path

  def __call__(self, x: jax.Array, *, key: jax.Array | None) -> jax.Array:
    keys = (None, None) if key is None else jax.random.split(key)
    x = x + layers.drop_path(self.attn(self.norm1(x)), self.drop_path, keys[0])
    return x + layers.drop_path(self.mlp(self.norm2(x)), self.drop_path, keys[1])


class ConvTransposePatch(nnx.Module):
  """Transposed convolution whose stride is its kernel size: every cell becomes one patch."""

  def __init__(self, channels: int, size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    shape = (size, size, channels, channels)
    # Each output sees one cell, so the fan-in is the number of channels alone.
    kernel = initializers.uniform_fan_in(rngs.params(), (channels, size * size * channels))
    self.kernel = nnx.Param(kernel.reshape(channels, size, size, channels).transpose(1, 2, 0, 3))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.size, self.dtype = shape[0], dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H * size, W * size, C]."""
    batch, height, width, channels = x.shape
    size, kernel = self.size, self.kernel[...].astype(self.dtype)
    # One product of rows, which takes a CPU four fifths of the time of an einsum.
    kernel = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    x = x.astype(self.dtype).reshape(-1, channels) @ kernel
    x = x.reshape(batch, height, width, size, size, channels).swapaxes(2, 3)
    x = x.reshape(batch, height * size, width * size, channels)
    return x + self.bias[...].astype(self.dtype)


class ChannelNorm(nnx.Module):
  """Layer norm over the channels, under the name that it has in the release."""

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    self.ln = layers.layer_norm(channels, _PYRAMID_EPSILON, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.ln(x)


def pyramid_branch(
  in_channels: int, channels: int, name: str, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.List:
  """Layers from the stride-16 map to the output `name`, one after the other, no activation."""
  kw = dict(dtype=dtype, rngs=rngs)
  conv = dict(use_bias=False, kernel_init=initializers.he_normal_fan_out, **kw)
  if name == "res2":
    resample = ConvTransposePatch(channels, 4, **kw)
  elif name == "res3":
    resample = ConvTransposePatch(channels, 2, **kw)
  else:
    stride = 2 if name == "res5" else 1
    padding = ((1, 1), (1, 1))
    resample = nnx.Conv(channels, channels, (3, 3), strides=stride, padding=padding, **conv)
  return nnx.List(
    [
      layers.Conv(in_channels, channels, (1, 1), **conv),
      ChannelNorm(channels, **kw),
      resample,
      ChannelNorm(channels, dtype=jnp.float32, rngs=rngs),
    ]
  )


class Vit(nnx.Module):
  """Multi-scale features of an image."""

  def __init__(
    self,
    config: VitConfig,
    *,
    drop_path: float = DROP_PATH,
    remat: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(dtype=dtype, rngs=rngs)
    channels, width = config.channels, config.pyramid_channels
    self.out_channels = (width,) * 4
    self.remat, self.grid = remat, config.grid
    self.drop_paths = tuple(np.linspace(0, drop_path, config.depth).tolist())
    self.pos_embed = layers.Frozen(jnp.asarray(sin_cos_position_embedding(config.grid, channels)))
    self.patch_embed = FrozenPatchEmbed(config, **kw)
    self.blocks = nnx.List(
      Block(
        channels,
        config.heads,
        window=0 if i in config.global_blocks else config.window,
        drop_path=rate,
        **kw,
      )
      for i, rate in enumerate(self.drop_paths)
    )
    self.norm = layers.layer_norm(channels, _BLOCK_EPSILON, **kw)
    self.res2, self.res3, self.res4, self.res5 = (
      pyramid_branch(channels, width, name, **kw) for name in ("res2", "res3", "res4", "res5")
    )

  def position_embedding(self, height: int, width: int) -> jax.Array:
    """The embedding, resized to the input's grid: [1, height, width, C]."""
    embedding = self.pos_embed[...].reshape(1, self.grid, self.grid, -1)
    rows, columns = bicubic.matrix(self.grid, height), bicubic.matrix(self.grid, width)
    kw = dict(precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("bijc,hi,wj->bhwc", embedding, rows, columns, **kw)

  def __call__(
    self, image: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
  ) -> dict[str, jax.Array]:
    """Runs the backbone.

    Args:
      image: [B, H, W, 3] normalised image, H and W multiples of 16.
      train: whether stochastic depth drops residual branches.
      rngs: `rngs.dropout` feeds stochastic depth; needed in training unless its rate is 0.

    Returns:
      {"res2": [B, H/4, W/4, C], "res3": stride 8, "res4": stride 16, "res5": stride 32, rounded
      up} in float32.

    Raises:
      ValueError: H or W is no multiple of the patch size.
    """
    keys = layers.drop_path_keys(self.drop_paths, train, rngs)
    x = self.patch_embed(image)  # [B, H/16, W/16, C]
    x = x + self.position_embedding(*x.shape[1:3])
    for block, key in zip(self.blocks, keys, strict=True):
      x = layers.call_block(block, x, remat=self.remat, key=key)
    x = self.norm(x)
    features = {}
    for name in ("res2", "res3", "res4", "res5"):
      y = x
      for layer in getattr(self, name):
        y = layer(y)
      features[name] = y
    return features
