"""The auxiliary head: classes of pixels from the mask features, for its gradient in training alone.

A mask classifier learns a rare class from the few queries that are matched to it; this head gives
the features below them the gradient of every labelled pixel.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ltss_jax.models import initializers, layers, pixel_decoder


class AuxiliaryHead(nnx.Module):
  """3x3 convolution, group norm, ReLU, and a 1x1 convolution to the classes; float32."""

  def __init__(self, channels: int, num_classes: int, *, rngs: nnx.Rngs):
    """Initialises.

    Args:
      channels: width of the features, and of the layer between; a multiple of 32.
      num_classes: C.
      rngs: `rngs.params` draws the initial weights.
    """
    self.conv = pixel_decoder.ConvGroupNorm(
      channels, channels, 3, kernel_init=initializers.uniform_fan_in, use_bias=False, rngs=rngs
    )
    self.classifier = layers.Conv(
      channels,
      num_classes,
      (1, 1),
      kernel_init=initializers.normal(0.001),
      dtype=jnp.float32,
      rngs=rngs,
    )

  def __call__(self, features: jax.Array) -> jax.Array:
    """[B, h, w, channels] -> logits [B, h, w, C]."""
    return self.classifier(nnx.relu(self.conv(features)))
