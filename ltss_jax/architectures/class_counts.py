"""Samples of every class so far, which some class losses follow: an entry beside a model's stats.

Mask2Former has an entry of its own, within its decoder, where official checkpoints keep it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ltss_jax.losses.class_loss_type import ClassLoss

# Entry of the stats, float32 [C]. A sum of many samples, such as pixels, is rounded above 2^24, by
# 6e-8 of itself a step: no factor of a loss changes visibly by that. The name is from the first
# loss that counts.
NAME = "seesaw_counts"

_Init = Callable[[jax.Array], tuple[Any, Any]]


def added(init: _Init, class_loss: ClassLoss, num_classes: int) -> _Init:
  """`Objective.init` of a model's `init`: with the entry, all 0, where the loss keeps counts."""
  if not class_loss.keeps_counts:
    return init

  def with_counts(key):
    params, stats = init(key)
    return params, stats | {NAME: jnp.zeros(num_classes)}

  return with_counts


def without(stats: dict[str, Any]) -> dict[str, Any]:
  """The model's own statistics."""
  return {name: value for name, value in stats.items() if name != NAME}
