"""What the train step and the evaluation need of a model: the seam where architectures plug in."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ltss_jax.losses import pixel
from ltss_jax.models import deeplabv3plus, functional

# Mean and standard deviation of ImageNet's RGB values in 0-255, as the release normalises.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A model with its loss and its inference, as pure functions.

  Attributes:
    init: key -> (params, stats).
    loss: (params, stats, image [B, H, W, 3] normalised, label [B, H, W], rng) ->
      (scalar, (new stats, {"loss term": scalar})).
    loss_terms: the names in that dict.
    scores: (params, stats, image [B, H, W, 3] normalised) -> [B, H, W, C] float32; the class with
      the largest score wins.
    decays: whether weight decay applies to a parameter path.
  """

  init: Callable[[jax.Array], tuple[Any, Any]]
  loss: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
  loss_terms: tuple[str, ...]
  scores: Callable[[Any, Any, jax.Array], jax.Array]
  decays: Callable[[str], bool]


def normalize(image: jax.Array) -> jax.Array:
  """uint8 RGB [..., 3] -> float32, zero mean and unit variance per channel."""
  return (image.astype(jnp.float32) - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)


def deeplabv3plus_architecture(
  config: deeplabv3plus.DeepLabV3PlusConfig, *, hard_pixel_fraction: float, ignore_label: int
) -> Architecture:
  """DeepLabV3+ with hard pixel mining.

  Args:
    config: shape of the model.
    hard_pixel_fraction: share of all pixels of the batch, the hardest, that make the loss.
    ignore_label: label of the pixels that belong to no class.
  """
  model = functional.functional(lambda rngs: deeplabv3plus.DeepLabV3Plus(config, rngs=rngs))

  # Recomputed in the backward pass: full-size logits of 847 classes would fill an accelerator.
  @jax.checkpoint
  def pixel_loss(logits, label):
    logits = deeplabv3plus.full_resolution(logits, *label.shape[1:])  # [B, H, W, C]
    return pixel.cross_entropy(logits, label, ignore_label)  # [B, H, W]

  def loss(params, stats, image, label, rng):
    logits, stats = model.apply(params, stats, image, train=True, rng=rng)
    value = pixel.hard_pixel_mean(pixel_loss(logits, label), hard_pixel_fraction)
    return value, (stats, {"loss": value})

  def scores(params, stats, image):
    logits, _ = model.apply(params, stats, image, train=False)
    return deeplabv3plus.full_resolution(logits, *image.shape[1:3])

  return Architecture(model.init, loss, ("loss",), scores, lambda path: "/norm/" not in path)
