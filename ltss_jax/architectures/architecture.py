"""What the train step and the evaluation need of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (first class, number of classes) -> their scores [h, w, number].
ScoreBlocks = Callable[[jax.Array, int], jax.Array]

# Mean and standard deviation of ImageNet's RGB values in 0-255, as the release normalises.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A model with its loss and its inference, as pure functions.

  Attributes:
    num_classes: C.
    init: key -> (params, stats).
    loss: (params, stats, batch, rng) -> (scalar, (new stats, {"loss term": scalar})); the batch
      holds "image" [B, H, W, 3] normalised, "label" [B, H, W], and "classes" and
      "dropped_classes" where `max_targets` asks the input pipeline for them.
    loss_terms: the names in that dict.
    predict: (params, stats, image [B, H, W, 3] normalised) -> prediction, a tree of [B, ...].
    score_blocks: (prediction of one image, without its batch axis, (H, W)) -> function that gives
      the float32 scores of a block of classes at the input's size; the class with the largest
      score wins.
    decays: whether weight decay applies to a parameter path.
    max_targets: T, how many classes of one image the loss can take; 0 for all.
  """

  num_classes: int
  init: Callable[[jax.Array], tuple[Any, Any]]
  loss: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
  loss_terms: tuple[str, ...]
  predict: Callable[[Any, Any, jax.Array], Any]
  score_blocks: Callable[[Any, tuple[int, int]], ScoreBlocks]
  decays: Callable[[str], bool]
  max_targets: int


def normalize(image: jax.Array) -> jax.Array:
  """uint8 RGB [..., 3] -> float32, zero mean and unit variance per channel."""
  return (image.astype(jnp.float32) - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)
