"""Transformer parts that the pixel decoder and the transformer decoder share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import initializers, layers


def layer_norm(channels: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm as everywhere in Mask2Former: eps 1e-5, computed in float32."""
  return layers.layer_norm(channels, 1e-5, dtype=jnp.float32, rngs=rngs)


class Attention(nnx.Module):
  """Multi-head attention with one packed projection for queries, keys and values."""

  def __init__(self, channels: int, num_heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    kw = dict(kernel_init=initializers.xavier_uniform, dtype=dtype, rngs=rngs)
    self.in_proj = layers.Linear(channels, 3 * channels, **kw)
    self.out_proj = layers.Linear(channels, channels, **kw)
    self.num_heads, self.dtype = num_heads, dtype

  def __call__(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    blocked: jax.Array | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      query: [B, Q, C].
      key: [B, S, C].
      value: [B, S, C].
      blocked: bool [B, Q, S], the same for all heads: True where a query must not look.

    Returns:
      [B, Q, C].
    """
    packed = self.in_proj.kernel[...], self.in_proj.bias[...]

    def project(x: jax.Array, part: int) -> jax.Array:
      weight, bias = (jnp.split(w, 3, axis=-1)[part].astype(self.dtype) for w in packed)
      y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ weight + bias
      return y.reshape(*x.shape[:2], self.num_heads, -1)  # [B, S, heads, C / heads]

    query, key, value = (project(x, i) for i, x in enumerate((query, key, value)))
    bias = None if blocked is None else jnp.where(blocked[:, None], -jnp.inf, 0.0)
    return self.out_proj(layers.attend(query * query.shape[-1] ** -0.5, key, value, bias))


def feed_forward_layers(
  channels: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> tuple[layers.Linear, layers.Linear]:
  """The two linear layers of a transformer's feed-forward network."""
  kw = dict(kernel_init=initializers.xavier_uniform, dtype=dtype, rngs=rngs)
  return (
    layers.Linear(channels, width, bias_init=initializers.torch_uniform(channels), **kw),
    layers.Linear(width, channels, bias_init=initializers.torch_uniform(width), **kw),
  )


def mlp_layers(sizes: Sequence[int], *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.List:
  """Linear layers of the given widths with torch's default initialisation."""
  return nnx.List(
    [
      layers.Linear(
        inputs,
        outputs,
        kernel_init=initializers.torch_uniform(inputs),
        bias_init=initializers.torch_uniform(inputs),
        dtype=dtype,
        rngs=rngs,
      )
      for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
    ]
  )
