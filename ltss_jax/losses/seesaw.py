"""Seesaw loss: rare classes are pushed down less by samples of frequent ones.

Source: Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, with the
cumulative counts and the floor under the label's probability of the public implementations.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from ltss_jax.losses.class_loss_type import ClassLoss, cross_entropy

# Floor under the label's probability in the compensation factor, which would grow without bound.
_MIN_PROBABILITY = 0.01


def log_factors(
  logits: jax.Array, label: jax.Array, counts: jax.Array, p: float, q: float
) -> jax.Array:
  """Logarithm of the factors S_ij that scale what class j adds to the softmax of a sample of i.

  S_ij = M_ij C_ij. Mitigation M_ij = (max(n_j, 1) / max(n_i, 1))^p where n_j < n_i, else 1: rarer
  classes are spared. Compensation C_ij = (p_j / max(p_i, 0.01))^q where that ratio is above 1, else
  1: wrong answers are not. So C_ij is never below 1, and p_i < p_j < 0.01 is not compensated.

  Args:
    logits: [..., C].
    label: class i of each sample, [...] integers in 0..C-1.
    counts: samples n of every class so far [C], in any unit of which 1 is little.
    p: exponent of the mitigation.
    q: exponent of the compensation.

  Returns:
    [..., C] float32, 0 at the label; no gradient goes through it.
  """
  logits, counts = lax.stop_gradient((logits.astype(jnp.float32), counts.astype(jnp.float32)))
  log_counts = jnp.log(jnp.maximum(counts, 1))  # [C]
  mitigation = p * jnp.minimum(log_counts - log_counts[label][..., None], 0)  # [..., C]
  own = jnp.take_along_axis(logits, label[..., None], axis=-1)  # [..., 1]
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  # p_j / max(p_i, 0.01), of which the sum of exponentials cancels unless the floor holds.
  floor = jnp.maximum(own, total + math.log(_MIN_PROBABILITY))
  compensation = q * jnp.maximum(logits - floor, 0)
  return mitigation + compensation


@dataclasses.dataclass(frozen=True, eq=False)
class Seesaw(ClassLoss):
  """Cross-entropy of z_j + log(S_ij), with counts that grow with the training.

  Attributes:
    seesaw_p: exponent of the mitigation.
    seesaw_q: exponent of the compensation.
  """

  name = "seesaw"
  favours_rare_classes = True
  keeps_counts = True
  class_head = "seesaw"
  seesaw_p: float
  seesaw_q: float

  def __call__(self, logits, label, counts=None):
    if counts is None:
      raise ValueError("the Seesaw loss needs `counts`, the samples of every class so far")
    logits = logits.astype(jnp.float32)
    scaled = logits + log_factors(logits, label, counts, self.seesaw_p, self.seesaw_q)
    value = cross_entropy(scaled, label)  # the factor of the label itself is 1
    return value, jnp.ones_like(value)
