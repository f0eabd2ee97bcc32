"""Small layers that every segmentation model here is built from (NHWC)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

# The weight initialisers of the published model; the second is U(+-sqrt(3 / fan_in)).
he_normal_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
uniform_fan_in = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


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


class ConvNorm(nnx.Module):
  """Convolution without bias, then synchronised batch norm (eps 1e-5, momentum 0.9).

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
    kernel_init: Callable = he_normal_fan_out,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    padding = dilation * (kernel_size - 1) // 2
    self.conv = nnx.Conv(
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
    self.norm = nnx.BatchNorm(out_channels, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    return self.norm(self.conv(x), use_running_average=not train)
