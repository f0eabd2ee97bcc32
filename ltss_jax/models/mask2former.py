"""Mask2Former: a set of class and mask predictions, and the semantic map that they make.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import (
  auxiliary_head,
  backbones,
  functional,
  layers,
  pixel_decoder,
  transformer_decoder,
)


class ClassHead(NamedTuple):
  """A kind of class head.

  Attributes:
    num_others: number of outputs beside the classes.
    has_counts: whether official checkpoints hold the samples of every class so far with it.
  """

  num_others: int
  has_counts: bool


# "softmax": no object is one more class; "seesaw": two logits of object and no object.
CLASS_HEADS = {"softmax": ClassHead(1, False), "seesaw": ClassHead(2, True)}


@dataclasses.dataclass(frozen=True)
class Mask2FormerConfig:
  """Shape of a Mask2Former.

  Attributes:
    num_classes: C, without the ignore label.
    backbone: kind of the features that it stands on.
    channels: width of both decoders.
    num_queries: Q.
    encoder_layers: number of layers of the pixel decoder.
    decoder_layers: number of layers of the transformer decoder.
    num_heads: number of heads of all attentions.
    encoder_width: width of the feed-forward networks in the pixel decoder.
    decoder_width: width of those in the transformer decoder.
    class_head: a key of `CLASS_HEADS`.
    dtype: compute dtype of the transformer decoder; the pixel decoder is always float32.
    remat: recompute the decoders' layers in the backward pass.
    pixel_head: whether an auxiliary head classifies pixels beside the queries in training.
    deformable_attention: implementation of `ms_deform_attn`; "auto" for the platform's best.
  """

  num_classes: int
  backbone: backbones.BackboneConfig
  channels: int
  num_queries: int
  encoder_layers: int
  decoder_layers: int
  num_heads: int
  encoder_width: int
  decoder_width: int
  class_head: str
  dtype: str
  remat: bool
  pixel_head: bool
  deformable_attention: str

  @property
  def implementation(self) -> str | None:
    """Implementation of `ms_deform_attn` by its name; None for the platform's best."""
    return None if self.deformable_attention == "auto" else self.deformable_attention


class Predictions(NamedTuple):
  """What the model returns, float32.

  Attributes:
    class_logits: [L + 1, B, Q, outputs]; the last prediction is the final one.
    mask_embeddings: [L + 1, B, Q, C].
    mask_features: [B, H/4, W/4, C]; with the embeddings they make the masks (`mask_logits`).
    pixel_logits: [B, H/4, W/4, classes] of the auxiliary head in training; None without it.
  """

  class_logits: jax.Array
  mask_embeddings: jax.Array
  mask_features: jax.Array
  pixel_logits: jax.Array | None = None


class Mask2Former(nnx.Module):
  """Backbone, pixel decoder and transformer decoder."""

  def __init__(self, config: Mask2FormerConfig, *, rngs: nnx.Rngs):
    self.backbone = backbones.build(config.backbone, rngs=rngs)
    self.frozen_backbone = config.backbone.frozen
    self.pixel_decoder = pixel_decoder.PixelDecoder(
      self.backbone.out_channels,
      pixel_decoder.PixelDecoderConfig(
        channels=config.channels,
        num_layers=config.encoder_layers,
        num_heads=config.num_heads,
        feed_forward_width=config.encoder_width,
        remat=config.remat,
        implementation=config.implementation,
      ),
      rngs=rngs,
    )
    self.transformer_decoder = transformer_decoder.TransformerDecoder(
      transformer_decoder.TransformerDecoderConfig(
        num_outputs=config.num_classes + CLASS_HEADS[config.class_head].num_others,
        channels=config.channels,
        num_queries=config.num_queries,
        num_layers=config.decoder_layers,
        num_heads=config.num_heads,
        feed_forward_width=config.decoder_width,
        dtype=config.dtype,
        remat=config.remat,
      ),
      rngs=rngs,
    )
    if CLASS_HEADS[config.class_head].has_counts:
      # Matched queries per class so far; the last slot of official checkpoints is unused.
      counts = layers.Frozen(jnp.zeros(config.num_classes + 1))
      self.transformer_decoder.seesaw_counts = counts
    # The last part, so that the others start from the same weights with and without it.
    self.pixel_head = (
      auxiliary_head.AuxiliaryHead(config.channels, config.num_classes, rngs=rngs)
      if config.pixel_head
      else None
    )

  def __call__(self, image: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Predictions:
    """Predicts masks and their classes.

    Args:
      image: [B, H, W, 3] float32, normalised; H and W multiples of 32
        (`backbones.pad_to_stride`).
      train: stochastic depth (which draws from `rngs.dropout`), batch statistics, and the pixel
        head where there is one.
      rngs: needed in training of backbones with stochastic depth.

    Returns:
      The predictions of every layer.
    """
    features = self.backbone(image, train=train and not self.frozen_backbone, rngs=rngs)
    mask_features, memory = self.pixel_decoder(features)
    class_logits, embeddings = self.transformer_decoder(mask_features, memory)
    has_head = train and self.pixel_head is not None
    pixel_logits = self.pixel_head(mask_features) if has_head else None
    return Predictions(class_logits, embeddings, mask_features, pixel_logits)


def functions(config: Mask2FormerConfig) -> functional.Functional:
  """The model as pure functions."""
  return functional.functional(lambda rngs: Mask2Former(config, rngs=rngs))


def mask_logits(mask_embeddings: jax.Array, mask_features: jax.Array) -> jax.Array:
  """[..., B, Q, C] and [B, h, w, C] -> [..., B, h, w, Q]."""
  return jnp.einsum("...bqc,bhwc->...bhwq", mask_embeddings, mask_features)


def full_size_masks(mask_logits: jax.Array, height: int, width: int) -> jax.Array:
  """Mask probabilities at the size of the unpadded input.

  Args:
    mask_logits: [B, h, w, Q] at stride 4 of the padded input.
    height: height of the unpadded input, px.
    width: width of the unpadded input, px.

  Returns:
    [B, height, width, Q]; times the class scores of the queries they are the semantic scores.
  """
  x = layers.resize_bilinear(mask_logits, 4 * mask_logits.shape[1], 4 * mask_logits.shape[2])
  return jax.nn.sigmoid(x[:, :height, :width])
