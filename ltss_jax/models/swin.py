"""Swin Transformer backbone.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
as its object-detection release runs it: any input size, one layer norm per output, no absolute
position embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ltss_jax.models import initializers, layers

DROP_PATH = 0.3
_EPSILON = 1e-5
_PATCH = 4


@dataclasses.dataclass(frozen=True)
class SwinConfig:
  """Shape of a Swin Transformer.

  Attributes:
    depths: number of blocks of the four stages.
    channels: width of the first stage; each stage doubles it.
    heads: attention heads of the stages.
    window: side of the attention windows in cells.
  """

  depths: tuple[int, int, int, int]
  channels: int
  heads: tuple[int, int, int, int]
  window: int


CONFIGS = {
  "swin_t": SwinConfig((2, 2, 6, 2), 96, (3, 6, 12, 24), window=7),
  "swin_s": SwinConfig((2, 2, 18, 2), 96, (3, 6, 12, 24), window=7),
  "swin_b": SwinConfig((2, 2, 18, 2), 128, (4, 8, 16, 32), window=12),
  "swin_l": SwinConfig((2, 2, 18, 2), 192, (6, 12, 24, 48), window=12),
  # For tests.
  "swin_mini": SwinConfig((2, 1, 2, 1), 16, (1, 2, 4, 8), window=4),
}


def relative_position_index(window: int) -> np.ndarray:
  """Row of the bias table for every (query, key) of a window: [w * w, w * w]."""
  y, x = np.divmod(np.arange(window * window), window)
  dy, dx = y[:, None] - y, x[:, None] - x
  return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """Logit offsets that keep apart cells which only the cyclic shift brings together.

  Args:
    height: height of the map in cells, a multiple of the window.
    width: likewise.
    window: side of a window.
    shift: how far the map is rolled to the top left.

  Returns:
    [N, 1, w * w, w * w] float32: 0 within a region, -100 (the release's value) between regions.
  """

  def regions(size: int) -> np.ndarray:
    """0 for whole windows; 1 and 2 for the two parts of the last one."""
    cells = np.arange(size)
    return (cells >= size - window).astype(int) + (cells >= size - shift)

  region = 3 * regions(height)[:, None] + regions(width)  # [H, W]
  rows, columns = height // window, width // window
  region = region.reshape(rows, window, columns, window).swapaxes(1, 2)
  region = region.reshape(rows * columns, 1, window * window)
  differs = region[:, :, :, None] != region[:, :, None, :]
  return np.where(differs, np.float32(-100), np.float32(0))


class WindowAttention(nnx.Module):
  """Multi-head attention within windows, with a learned bias per relative position."""

  def __init__(self, channels: int, heads: int, window: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    table = initializers.truncated_normal(rngs.params(), ((2 * window - 1) ** 2, heads))
    self.relative_position_bias_table = nnx.Param(table)
    self.qkv = layers.Linear(channels, 3 * channels, **kw)
    self.proj = layers.Linear(channels, channels, **kw)
    self.heads, self.window = heads, window

  def __call__(self, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
    """[B, N, w * w, C] -> the same; mask is broadcastable to [N, heads, w * w, w * w]."""
    index = relative_position_index(self.window)
    bias = self.relative_position_bias_table[...][index]  # [w * w, w * w, heads]
    bias = bias.transpose(2, 0, 1)
    if mask is not None:
      bias = bias + mask
    return self.proj(layers.attend(*layers.split_heads(self.qkv(x), self.heads), bias))


class Block(nnx.Module):
  """Window attention and MLP, each normalised first and added to a float32 stream."""

  def __init__(
    self,
    channels: int,
    heads: int,
    *,
    window: int,
    shift: int,
    drop_path: float,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(dtype=dtype, rngs=rngs)
    self.norm1 = layers.layer_norm(channels, _EPSILON, **kw)
    self.attn = WindowAttention(channels, heads, window, **kw)
    self.norm2 = layers.layer_norm(channels, _EPSILON, **kw)
    self.mlp = layers.Mlp(channels, 4 * channels, **kw)
    self.window, self.shift, self.drop_path = window, shift, drop_path

  def attention(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> the same: padded after the norm, rolled, attended, and all that undone.

    The zeros of the padding are attended like any other cell, as in the release.
    """
    height, width = x.shape[1:3]
    window, shift = self.window, self.shift
    mask = None
    if shift:
      x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
      mask = shift_mask(x.shape[1], x.shape[2], window, shift)
      x = jnp.roll(x, (-shift, -shift), (1, 2))
    padded_height, padded_width = x.shape[1:3]
    x = self.attn(layers.to_windows(x, window), mask)
    x = layers.from_windows(x, window, padded_height, padded_width)
    if shift:
      x = jnp.roll(x, (shift, shift), (1, 2))
    return x[:, :height, :width]

  def __call__(self, x: jax.Array, *, key: jax.Array | None) -> jax.Array:
    keys = (None, None) if key is None else jax.random.split(key)
    x = x + layers.drop_path(self.attention(self.norm1(x)), self.drop_path, keys[0])
    return x + layers.drop_path(self.mlp(self.norm2(x)), self.drop_path, keys[1])


class PatchEmbed(nnx.Module):
  """4x4 patches, projected and normalised; sizes are padded to multiples of 4."""

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    patch = (_PATCH, _PATCH)
    self.proj = nnx.Conv(3, channels, patch, strides=patch, padding="VALID", dtype=dtype, rngs=rngs)
    self.norm = layers.layer_norm(channels, _EPSILON, dtype=jnp.float32, rngs=rngs)

  def __call__(self, image: jax.Array) -> jax.Array:
    height, width = image.shape[1:3]
    image = jnp.pad(image, ((0, 0), (0, -height % _PATCH), (0, -width % _PATCH), (0, 0)))
    return self.norm(self.proj(image))  # [B, H/4, W/4, C]


class PatchMerging(nnx.Module):
  """2x2 cells side by side (odd sizes padded with zeros), normalised and projected to 2 C."""

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    self.norm = layers.layer_norm(4 * channels, _EPSILON, dtype=dtype, rngs=rngs)
    self.reduction = layers.Linear(
      4 * channels,
      2 * channels,
      use_bias=False,
      kernel_init=initializers.truncated_normal,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    height, width = (height + 1) // 2, (width + 1) // 2
    # The column's parity is the slower index: (row, column) even-even, odd-even, even-odd, odd-odd.
    x = x.reshape(batch, height, 2, width, 2, channels).transpose(0, 1, 3, 4, 2, 5)
    x = x.reshape(batch, height, width, 4 * channels)
    # Back in float32: the next stage's residual stream.
    return self.reduction(self.norm(x)).astype(jnp.float32)


class Stage(nnx.Module):
  """Blocks of one resolution (every second one shifted), and the way to the next one."""

  def __init__(
    self,
    channels: int,
    heads: int,
    *,
    window: int,
    drop_paths: list[float],
    merges: bool,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(dtype=dtype, rngs=rngs)
    self.blocks = nnx.List(
      Block(channels, heads, window=window, shift=i % 2 * (window // 2), drop_path=rate, **kw)
      for i, rate in enumerate(drop_paths)
    )
    self.downsample = PatchMerging(channels, **kw) if merges else None


class Swin(nnx.Module):
  """Multi-scale features of an image."""

  def __init__(
    self,
    config: SwinConfig,
    *,
    drop_path: float = DROP_PATH,
    remat: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    kw = dict(dtype=dtype, rngs=rngs)
    self.out_channels = tuple(config.channels * 2**i for i in range(4))
    self.remat = remat
    self.drop_paths = tuple(np.linspace(0, drop_path, sum(config.depths)).tolist())
    self.patch_embed = PatchEmbed(config.channels, **kw)
    stages, start = [], 0
    for i, (depth, channels, heads) in enumerate(
      zip(config.depths, self.out_channels, config.heads, strict=True)
    ):
      rates = self.drop_paths[start : start + depth]
      stages.append(
        Stage(channels, heads, window=config.window, drop_paths=rates, merges=i < 3, **kw)
      )
      start += depth
    self.layers = nnx.List(stages)
    norm = dict(dtype=jnp.float32, rngs=rngs)
    self.norm0, self.norm1, self.norm2, self.norm3 = (
      layers.layer_norm(channels, _EPSILON, **norm) for channels in self.out_channels
    )

  def __call__(
    self, image: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
  ) -> dict[str, jax.Array]:
    """Runs the backbone.

    Args:
      image: [B, H, W, 3] normalised image of any size.
      train: whether stochastic depth drops residual branches.
      rngs: `rngs.dropout` feeds stochastic depth; needed in training unless its rate is 0.

    Returns:
      {"res2": [B, H/4, W/4, C], "res3": [B, H/8, W/8, 2 C], "res4": stride 16, "res5": stride 32}
      in float32; sizes are rounded up.
    """
    keys = iter(layers.drop_path_keys(self.drop_paths, train, rngs))
    x = self.patch_embed(image)  # [B, H/4, W/4, C]
    features = {}
    norms = (self.norm0, self.norm1, self.norm2, self.norm3)
    for i, (stage, norm) in enumerate(zip(self.layers, norms, strict=True)):
      for block in stage.blocks:
        x = layers.call_block(block, x, remat=self.remat, key=next(keys))
      features[f"res{i + 2}"] = norm(x)
      if stage.downsample is not None:
        x = stage.downsample(x)  # [B, H/2, W/2, 2 C]
    return features
