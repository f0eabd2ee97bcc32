"""Transformer decoder of Mask2Former: queries attend to the memory inside their own masks.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import attention, initializers, layers, position

NUM_LEVELS = 3


@dataclasses.dataclass(frozen=True)
class TransformerDecoderConfig:
  """Shape of a transformer decoder.

  Attributes:
    num_outputs: width of the class head: C + 1 ("no object" last), or C + 2 for a Seesaw head.
    channels: width of queries, memory and mask features.
    num_queries: Q.
    num_layers: decoder layers; layer i attends to memory level i % 3.
    num_heads: heads of both attentions.
    feed_forward_width: hidden width of the layers' feed-forward part.
    dtype: compute dtype of the layers; masks, classes and norms are computed in float32.
    remat: recompute the layers in the backward pass instead of keeping their insides.
  """

  num_outputs: int
  channels: int
  num_queries: int
  num_layers: int
  num_heads: int
  feed_forward_width: int
  dtype: str
  remat: bool


class AttentionBlock(nnx.Module):
  """Attention with its residual and LayerNorm."""

  def __init__(self, config: TransformerDecoderConfig, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    self.attn = attention.Attention(config.channels, config.num_heads, dtype=dtype, rngs=rngs)
    self.norm = attention.layer_norm(config.channels, rngs)

  def __call__(self, x, query, key, value, blocked=None):
    return self.norm(x + self.attn(query, key, value, blocked))


class FeedForward(nnx.Module):
  """Feed-forward network with its residual and LayerNorm."""

  def __init__(self, config: TransformerDecoderConfig, rngs: nnx.Rngs):
    self.linear1, self.linear2 = attention.feed_forward_layers(
      config.channels, config.feed_forward_width, dtype=jnp.dtype(config.dtype), rngs=rngs
    )
    self.norm = attention.layer_norm(config.channels, rngs)

  def __call__(self, x):
    return self.norm(x + self.linear2(nnx.relu(self.linear1(x))))


class TransformerDecoder(nnx.Module):
  """Refines the queries; each prediction's mask says where the next layer may look."""

  def __init__(self, config: TransformerDecoderConfig, *, rngs: nnx.Rngs):
    width, depth = config.channels, range(config.num_layers)

    def embedding(count: int) -> nnx.Param:
      return nnx.Param(initializers.normal(1.0)(rngs.params(), (count, width)))

    self.query_feat = embedding(config.num_queries)
    self.query_embed = embedding(config.num_queries)
    self.level_embed = embedding(NUM_LEVELS)
    self.cross_attention = nnx.List([AttentionBlock(config, rngs) for _ in depth])
    self.self_attention = nnx.List([AttentionBlock(config, rngs) for _ in depth])
    self.ffn = nnx.List([FeedForward(config, rngs) for _ in depth])
    self.decoder_norm = attention.layer_norm(width, rngs)
    (self.class_embed,) = attention.mlp_layers(
      (width, config.num_outputs), dtype=jnp.float32, rngs=rngs
    )
    self.mask_embed = attention.mlp_layers([width] * 4, dtype=jnp.float32, rngs=rngs)
    self.remat = config.remat

  def __call__(
    self, mask_features: jax.Array, memory: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Decodes.

    Args:
      mask_features: [B, H/4, W/4, C].
      memory: three maps [B, h, w, C], coarse to fine.

    Returns:
      (class logits [L + 1, B, Q, outputs], mask embeddings [L + 1, B, Q, C]), float32: the
      predictions from the query embeddings and after each of the L layers. A prediction's mask
      logits are the products of its embeddings with the mask features.
    """
    batch, width = mask_features.shape[0], mask_features.shape[-1]
    values, keys, coarse_features = [], [], []
    for level, x in enumerate(memory):
      shape = x.shape[1:3]
      value = x.reshape(batch, -1, width) + self.level_embed[level]
      values.append(value)  # [B, S, C]
      keys.append(value + position.sine_encoding(*shape, width).reshape(-1, width))
      # The mask logits are linear in the features, so resizing these once replaces resizing the
      # logits of all queries in every layer. No gradient passes the attention masks.
      coarse = layers.resize_bilinear(jax.lax.stop_gradient(mask_features), *shape)
      coarse_features.append(coarse.reshape(batch, -1, width))

    def run(cross, self_attention, ffn, x, blocked, key, value):
      position_term = self.query_embed[...]
      x = cross(x, x + position_term, key, value, blocked)
      x = self_attention(x, x + position_term, x + position_term, x)
      return ffn(x)

    run = nnx.remat(run) if self.remat else run
    x = jnp.broadcast_to(self.query_feat[...], (batch, *self.query_feat.shape))
    predictions = [self._predict(x)]
    stages = zip(self.cross_attention, self.self_attention, self.ffn, strict=True)
    for i, blocks in enumerate(stages):
      level = i % NUM_LEVELS
      blocked = _blocked(predictions[-1][1], coarse_features[level])
      x = run(*blocks, x, blocked, keys[level], values[level])
      predictions.append(self._predict(x))
    class_logits, mask_embeddings = zip(*predictions, strict=True)
    return jnp.stack(class_logits), jnp.stack(mask_embeddings)

  def _predict(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, Q, C] -> (class logits [B, Q, outputs], mask embeddings [B, Q, C])."""
    x = self.decoder_norm(x)
    embedding = x
    for i, linear in enumerate(self.mask_embed):
      embedding = linear(nnx.relu(embedding) if i else embedding)
    return self.class_embed(x), embedding


def _blocked(mask_embeddings: jax.Array, coarse_features: jax.Array) -> jax.Array:
  """Where a query must not look: its mask's probability is below one half.

  A query whose mask is empty looks everywhere.

  Args:
    mask_embeddings: [B, Q, C].
    coarse_features: [B, S, C], mask features at the memory's size.

  Returns:
    bool [B, Q, S].
  """
  embeddings = jax.lax.stop_gradient(mask_embeddings)
  blocked = jnp.einsum("bqc,bsc->bqs", embeddings, coarse_features) < 0
  return blocked & ~blocked.all(-1, keepdims=True)
