"""Losses of class logits for long-tailed data, for pixels and for queries alike.

No value of a loss is negative, which hard pixel mining relies on: each here is a cross-entropy of
the logits or of shifted ones, times a factor that is not negative.

A new one is a class and an entry in `CLASS_LOSSES`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax.losses.class_loss_type import ClassLoss, cross_entropy
from ltss_jax.losses.seesaw import Seesaw

# 1 - p of the focal loss stays above this: powers below 1 have no finite slope at 0.
_SMALLEST_DISTANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class CrossEntropy(ClassLoss):
  """-log p, p the softmax probability of the label."""

  name = "cross_entropy"

  def __call__(self, logits, label, counts=None):
    del counts
    return _unweighted(cross_entropy(logits.astype(jnp.float32), label))


@dataclasses.dataclass(frozen=True, eq=False)
class ClassBalanced(ClassLoss):
  """-log p, weighted by class.

  Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.

  Attributes:
    train_images: training images with each class, not negative [C].
    class_balanced_beta: beta of `class_balanced_weights`, in [0, 1).
  """

  name = "class_balanced"
  favours_rare_classes = True
  train_images: np.ndarray
  class_balanced_beta: float

  def __post_init__(self):
    self.class_weights  # noqa: B018  Wrong parameters fail here and not in a compilation.

  @functools.cached_property
  def class_weights(self) -> np.ndarray:
    """Weight of each class, 1 on average, float32 [C]."""
    return class_balanced_weights(self.train_images, self.class_balanced_beta)

  def __call__(self, logits, label, counts=None):
    del counts
    value = cross_entropy(logits.astype(jnp.float32), label)
    return value, _of_outputs(self.class_weights, logits.shape[-1], 1.0)[label]


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedSoftmax(ClassLoss):
  """-log p of the logits plus the log prior.

  Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.

  Attributes:
    prior_counts: amounts whose shares are the priors of the classes, not negative [C].
  """

  name = "balanced_softmax"
  favours_rare_classes = True
  prior_counts: np.ndarray

  def __post_init__(self):
    self.log_prior  # noqa: B018  As above.

  @functools.cached_property
  def log_prior(self) -> np.ndarray:
    """Logarithm of the classes' shares, see the function of this name, float32 [C]."""
    return log_prior(self.prior_counts)

  def __call__(self, logits, label, counts=None):
    del counts
    logits = logits.astype(jnp.float32)
    logits = logits + self._multiple() * _of_outputs(self.log_prior, logits.shape[-1], 0.0)
    return _unweighted(cross_entropy(logits, label))

  def _multiple(self) -> float:
    return 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class LogitAdjustment(BalancedSoftmax):
  """The balanced softmax with a multiple of the log prior.

  Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021.

  Attributes:
    logit_adjustment_tau: tau, the multiple.
  """

  name = "logit_adjustment"
  logit_adjustment_tau: float

  def _multiple(self) -> float:
    return self.logit_adjustment_tau


@dataclasses.dataclass(frozen=True, eq=False)
class Focal(ClassLoss):
  """-(1 - p)^gamma log p.

  Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with the softmax over
  classes in place of the sigmoid.

  Attributes:
    focal_gamma: gamma.
  """

  name = "focal"
  focal_gamma: float

  def __call__(self, logits, label, counts=None):
    del counts
    value = cross_entropy(logits.astype(jnp.float32), label)
    weight = jnp.ones_like(value)
    distance = jnp.maximum(-jnp.expm1(-value), _SMALLEST_DISTANCE)  # 1 - p
    return distance**self.focal_gamma * value, weight


CLASS_LOSSES = {
  loss.name: loss
  for loss in (CrossEntropy, Seesaw, ClassBalanced, BalancedSoftmax, LogitAdjustment, Focal)
}


def log_prior(counts: np.ndarray) -> np.ndarray:
  """Log of the classes' shares, relative to equal ones.

  Args:
    counts: amount of every class, not negative [C]. A class without any is taken for as rare as the
      rarest that occurs, as the logarithm of 0 would make it win everywhere.

  Returns:
    log(C pi_c), pi_c the share of class c, float32 [C]; zeros where all the counts are 0.

  Raises:
    ValueError: if a count is negative or no number.
  """
  counts = _checked(counts)
  return np.log(counts / counts.mean()).astype(np.float32)


def class_balanced_weights(counts: np.ndarray, beta: float) -> np.ndarray:
  """Inverse effective numbers of samples, (1 - beta) / (1 - beta^n_c), scaled to a mean of 1.

  Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
  which scales the weights to a sum of C.

  Args:
    counts: n_c, training images with the class, not negative [C]. A class without any is taken for
      as rare as the rarest that occurs.
    beta: number in [0, 1); 0 weighs all classes alike, towards 1 the weight becomes 1 / n_c.

  Returns:
    float32 [C].

  Raises:
    ValueError: if beta lies outside, or a count is negative or no number.
  """
  if not 0 <= beta < 1:
    raise ValueError(f"class_balanced_beta is {beta}; it must be at least 0 and below 1.")
  counts = _checked(counts)
  # 1 - beta^n without cancellation where beta is close to 1.
  effective = -np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts)
  weights = 1 / effective
  return (weights / weights.mean()).astype(np.float32)


def _checked(counts: np.ndarray) -> np.ndarray:
  """float64 counts, all positive: zeros become the smallest positive one, or 1 without any."""
  counts = np.asarray(counts, np.float64)
  if counts.ndim != 1 or not np.all((counts >= 0) & np.isfinite(counts)):
    raise ValueError(f"counts must be a vector of numbers that are not negative, got {counts}.")
  positive = counts[counts > 0]
  return np.where(counts > 0, counts, positive.min() if len(positive) else 1.0)


def _unweighted(value: jax.Array) -> tuple[jax.Array, jax.Array]:
  return value, jnp.ones_like(value)


def _of_outputs(values: np.ndarray, num_outputs: int, no_object: float) -> jax.Array:
  """Values of the classes [C] as one for each output [K]."""
  if num_outputs not in (len(values), len(values) + 1):
    raise ValueError(
      f"logits have {num_outputs} outputs, but the class loss was made for {len(values)} classes, "
      "with or without no object; make it from the counts of the same data set."
    )
  return jnp.asarray(np.pad(values, (0, num_outputs - len(values)), constant_values=no_object))
