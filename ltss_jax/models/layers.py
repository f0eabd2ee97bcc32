"""Small layers that every segmentation model here is built from (NHWC)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import initializers

_NORM_EPSILON = 1e-5


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes bilinearly with half-pixel centres and no anti-aliasing, also when shrinking.

  Args:
    x: [B, H, W, C] feature or score map.
    height: output height in pixels.
    width: output width in pixels.

  Returns:
    [B, height, width, C], the input's dtype.
  """
  if x.shape[1:3] == (height, width):
    return x
  shape = (x.shape[0], height, width, x.shape[3])
  return jax.image.resize(x, shape, "bilinear", antialias=False)


def max_pool_3x3_stride_2(x: jax.Array) -> jax.Array:
  """Max pooling 3x3, stride 2, padding 1 on every side: [B, H, W, C] -> [B, ceil(H/2), ...].

  One axis after the other, as maxima of strided slices: the gradient is then element-wise, which
  takes a CPU a fifth of the time of the scatter that differentiates `nnx.max_pool`.
  """
  return _max_of_three(_max_of_three(x, 1), 2)


def _max_of_three(x: jax.Array, axis: int) -> jax.Array:
  """Maximum over windows of 3, stride 2, padding 1, along one axis."""
  size = x.shape[axis]
  padding = [(0, 0)] * x.ndim
  padding[axis] = (1, 1)
  x = jnp.pad(x, padding, constant_values=-jnp.inf)
  last = 2 * ((size + 1) // 2) - 1
  slices = [jax.lax.slice_in_dim(x, start, start + last, 2, axis) for start in range(3)]
  return jnp.maximum(jnp.maximum(slices[0], slices[1]), slices[2])


class Linear(nnx.Linear):
  """`nnx.Linear` on rows: XLA's CPU weight gradient takes up to three times longer otherwise."""

  def __call__(self, x: jax.Array) -> jax.Array:
    return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Conv(nnx.Conv):
  """`nnx.Conv` whose 1x1 kernels (unpadded) run as a matrix product of rows.

  On a CPU that takes two thirds of the time of XLA's convolution, half for the weight gradient.
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kernel.shape[:2] != (1, 1):
      return super().__call__(x)
    stride = self.strides if isinstance(self.strides, int) else self.strides[0]
    x = x[:, ::stride, ::stride].astype(self.dtype)
    kernel = self.kernel[0, 0].astype(self.dtype)
    y = x.reshape(-1, x.shape[-1]) @ kernel
    if self.bias is not None:
      y = y + self.bias[...].astype(self.dtype)
    return y.reshape(*x.shape[:-1], -1)


class Frozen(nnx.BatchStat):
  """A constant of the checkpoint: kept and restored with the statistics, never trained."""


class FrozenBatchNorm(nnx.Module):
  """Batch norm (eps 1e-5) with constant statistics, scale and bias: the identity at first.

  The leaves have the names that they have in `nnx.BatchNorm`.
  """

  def __init__(self, channels: int, *, dtype: jnp.dtype):
    self.scale = Frozen(jnp.ones(channels))
    self.bias = Frozen(jnp.zeros(channels))
    self.mean = Frozen(jnp.zeros(channels))
    # The epsilon is part of the identity: 1 / sqrt(var + eps) = 1.
    self.var = Frozen(jnp.full(channels, 1 - _NORM_EPSILON))
    self.dtype = dtype

  def __call__(self, x: jax.Array) -> jax.Array:
    multiplier = self.scale[...] * jax.lax.rsqrt(self.var[...] + _NORM_EPSILON)
    shift = self.bias[...] - self.mean[...] * multiplier
    return (x * multiplier + shift).astype(self.dtype)  # float32 until here: the terms may cancel


class BatchNorm(nnx.BatchNorm):
  """Trained batch norm (eps 1e-5, momentum 0.9) as torch has it.

  The batch is normalised with its own variance, the mean of squares over n values; the running
  variance takes in n / (n - 1) of it, which is unbiased.
  """

  def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    super().__init__(channels, momentum=0.9, epsilon=_NORM_EPSILON, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Normalises [..., C]; in training with the statistics of x, which move the running ones.

    Raises:
      ValueError: in training, x has one value of each channel, which has no variance.
    """
    if not train:
      return super().__call__(x, use_running_average=True)
    n = x.size // x.shape[-1]
    if n < 2:
      raise ValueError(
        f"batch norm in training has one value of each channel to normalise (shape {x.shape}), and"
        " so no variance; take a larger batch or larger crops"
      )
    x, scale, bias = self.promote_dtype((x, self.scale[...], self.bias[...]), dtype=self.dtype)
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean, square = jnp.mean(wide, axes), jnp.mean(jnp.square(wide), axes)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    # Not `self.mean[...] = `: flax 0.12 asks a traced array for its sharding there, and JAX writes
    # an error message for which it searches the whole program: a quarter of Mask2Former R50's
    # tracing.
    self.mean.set_value(self._moved(self.mean[...], mean))
    self.var.set_value(self._moved(self.var[...], var * (n / (n - 1))))
    y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
    return y.astype(self.dtype)

  def _moved(self, running: jax.Array, of_batch: jax.Array) -> jax.Array:
    return self.momentum * running + (1 - self.momentum) * of_batch


class ConvNorm(nnx.Module):
  """Convolution without bias, then batch norm (eps 1e-5), synchronised (momentum 0.9) or frozen.

  "Synchronised" needs no code: under jit on a mesh the batch axis is one global array, so the
  mean and variance are those of the global batch.
  """

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    norm: str = "batch_norm",
    kernel_init: Callable = initializers.he_normal_fan_out,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    padding = dilation * (kernel_size - 1) // 2
    frozen = norm == "frozen_batch_norm"
    self.conv = (Conv if frozen else nnx.Conv)(
      in_channels,
      out_channels,
      (kernel_size, kernel_size),
      strides=stride,
      padding=((padding, padding), (padding, padding)),
      kernel_dilation=dilation,
      use_bias=False,
      kernel_init=kernel_init,
      dtype=dtype,
      rngs=rngs,
    )
    if frozen:
      self.norm = FrozenBatchNorm(out_channels, dtype=dtype)
    else:
      self.norm = BatchNorm(out_channels, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if isinstance(self.norm, FrozenBatchNorm):
      return self.norm(self.conv(x))
    return self.norm(self.conv(x), train=train)


def call_block(block: nnx.Module, x: jax.Array, *, remat: bool, **kw) -> jax.Array:
  """Calls `block(x, **kw)`; with `remat` the backward pass computes its insides anew."""
  if not remat:
    return block(x, **kw)
  return nnx.remat(lambda block, x: block(x, **kw))(block, x)


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Stochastic depth: drops a residual branch for whole images, keeping its expectation.

  Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

  Args:
    x: [B, ...] output of the branch.
    rate: probability of dropping it, below 1.
    key: None, or a rate of 0, returns the branch as it is.

  Returns:
    x / (1 - rate) or 0 for each image, x's shape and dtype.
  """
  if key is None or rate == 0:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def drop_path_keys(rates: Sequence[float], train: bool, rngs: nnx.Rngs | None) -> list:
  """One key for each block's `drop_path`; None where nothing is dropped.

  Args:
    rates: drop rates of the blocks.
    train: evaluation drops nothing.
    rngs: `rngs.dropout` is drawn from.

  Raises:
    ValueError: there is no `rngs` to draw from.
  """
  if not train or not any(rates):
    return [None] * len(rates)
  if rngs is None:
    raise ValueError(f"drop_path={max(rates)} needs rngs in training: pass nnx.Rngs(dropout=key)")
  return list(jax.random.split(rngs.dropout(), len(rates)))


def layer_norm(channels: int, epsilon: float, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Layer norm over the last axis, computed in float32; `dtype` is the output's."""
  # E[x^2] - E[x]^2, the default, cancels where a residual stream's mean is large.
  return nnx.LayerNorm(channels, epsilon=epsilon, dtype=dtype, use_fast_variance=False, rngs=rngs)


def gelu(x: jax.Array) -> jax.Array:
  """Exact GELU, computed in float32, in x's dtype.

  By erf, as in torch: erfc, which `jax.nn.gelu` takes, costs a CPU more, and is more exact only
  where the result is about 0.
  """
  wide = x.astype(jnp.float32)
  return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


class Mlp(nnx.Module):
  """Two linear layers with an exact GELU between them."""

  def __init__(self, channels: int, hidden: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.truncated_normal, dtype=dtype, rngs=rngs)
    self.fc1 = Linear(channels, hidden, **kw)
    self.fc2 = Linear(hidden, channels, **kw)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.fc2(gelu(self.fc1(x)))


def to_windows(x: jax.Array, window: int) -> jax.Array:
  """[B, H, W, C] -> [B, N, window * window, C], padded with zeros on the right and bottom."""
  batch, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
  rows, columns = x.shape[1] // window, x.shape[2] // window
  x = x.reshape(batch, rows, window, columns, window, channels).swapaxes(2, 3)
  return x.reshape(batch, rows * columns, window * window, channels)


def from_windows(x: jax.Array, window: int, height: int, width: int) -> jax.Array:
  """[B, N, window * window, C] -> [B, height, width, C]: `to_windows` undone, padding cut off."""
  rows, columns = -(-height // window), -(-width // window)
  x = x.reshape(x.shape[0], rows, columns, window, window, x.shape[-1]).swapaxes(2, 3)
  x = x.reshape(x.shape[0], rows * window, columns * window, x.shape[-1])
  return x[:, :height, :width]


def split_heads(qkv: jax.Array, num_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """[..., T, 3 * heads * D] -> query (scaled by 1 / sqrt(D)), key, value: [..., T, heads, D]."""
  dim = qkv.shape[-1] // (3 * num_heads)
  query, key, value = jnp.split(qkv, 3, axis=-1)
  shape = (*query.shape[:-1], num_heads, dim)
  return query.reshape(shape) * dim**-0.5, key.reshape(shape), value.reshape(shape)


def attend(
  query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
  """Softmax attention with float32 logits.

  Args:
    query: [..., T, heads, D], scaled already.
    key: [..., S, heads, D].
    value: [..., S, heads, D].
    bias: added to the logits, broadcastable to [..., heads, T, S].

  Returns:
    [..., T, heads * D], the value's dtype.
  """
  logits = jnp.einsum("...thd,...shd->...hts", query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    logits += bias
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  out = jnp.einsum("...hts,...shd->...thd", weights, value)  # [..., T, heads, D]
  return out.reshape(*out.shape[:-2], -1)
