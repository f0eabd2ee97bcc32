"""Losses of class logits for long-tailed data, for pixels and for queries alike.

Every loss here is a cross-entropy of the logits or of shifted ones, times a factor that is not
negative; so its value is not negative either, which hard pixel mining relies on. How often the
classes occur enters as arrays. The Seesaw loss counts for itself and lies in `seesaw.py`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class _Kind(NamedTuple):
  """What tells the losses apart.

  Attributes:
    favours_rare_classes: whether a sample of a rare class counts for more than one of a frequent.
    parameters: the attributes of `ClassLoss` that it needs.
  """

  favours_rare_classes: bool
  parameters: tuple[str, ...]


_KINDS = {
  "cross_entropy": _Kind(False, ()),
  "seesaw": _Kind(True, ("seesaw_p", "seesaw_q")),
  "class_balanced": _Kind(True, ("class_weights",)),
  "balanced_softmax": _Kind(True, ("log_prior",)),
  "logit_adjustment": _Kind(True, ("log_prior", "tau")),
  "focal": _Kind(False, ("focal_gamma",)),
}
NAMES = tuple(_KINDS)
# 1 - p of the focal loss stays above this: powers below 1 have no finite slope at 0.
_SMALLEST_DISTANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class ClassLoss:
  """How logits of C classes (or C classes and "no object") are compared with labels.

  The attributes below the name are of single losses; None where the loss has none such.

  Attributes:
    name: one of `NAMES`.
    log_prior: log(C pi_c), pi_c the share of class c, [C]; 0 everywhere for equal shares. For
      "balanced_softmax" and "logit_adjustment".
    class_weights: [C], 1 on average; for "class_balanced".
    tau: multiple of the log prior in "logit_adjustment".
    focal_gamma: exponent of 1 - p in "focal".
    seesaw_p: exponent of the mitigation factor in "seesaw".
    seesaw_q: exponent of the compensation factor in "seesaw".

  Raises:
    ValueError: there is no such loss, or it needs an attribute that is None.
  """

  name: str
  log_prior: np.ndarray | None = None
  class_weights: np.ndarray | None = None
  tau: float | None = None
  focal_gamma: float | None = None
  seesaw_p: float | None = None
  seesaw_q: float | None = None

  def __post_init__(self):
    missing = [name for name in _kind(self.name).parameters if getattr(self, name) is None]
    if missing:
      raise ValueError(f"class_loss {self.name!r} needs {' and '.join(missing)}; give a value.")

  @property
  def favours_rare_classes(self) -> bool:
    """Whether a sample of a rare class counts for more than one of a frequent class."""
    return _kind(self.name).favours_rare_classes


def _kind(name: str) -> _Kind:
  if name not in _KINDS:
    raise ValueError(f"class_loss is {name!r}; it must be one of {', '.join(NAMES)}.")
  return _KINDS[name]


def log_prior(counts: np.ndarray) -> np.ndarray:
  """Log of the classes' shares, relative to equal ones.

  Args:
    counts: how much there is of every class, not negative [C]. A class without any is taken for as
      rare as the rarest that occurs, as the logarithm of 0 would make it win everywhere.

  Returns:
    log(C pi_c), float32 [C]; zeros where all the counts are 0.

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
    beta: in [0, 1); 0 weighs all classes alike, towards 1 the weight becomes 1 / n_c.

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


def make_class_loss(
  name: str,
  *,
  counts: np.ndarray | None = None,
  beta: float | None = None,
  tau: float | None = None,
  focal_gamma: float | None = None,
  seesaw_p: float | None = None,
  seesaw_q: float | None = None,
) -> ClassLoss:
  """Makes a class loss with what it needs of the class frequencies.

  Args:
    name: one of `NAMES`.
    counts: [C]; training images with the class, or for the priors of a per-pixel loss the summed
      pixel shares. Only "class_balanced", "balanced_softmax" and "logit_adjustment" need them.
    beta: of "class_balanced". Like the following it may be None, or anything, for other losses.
    tau: of "logit_adjustment".
    focal_gamma: of "focal".
    seesaw_p: of "seesaw".
    seesaw_q: of "seesaw".

  Raises:
    ValueError: if there is no such loss, or it needs counts or a parameter and has none.
  """
  parameters = {"tau": tau, "focal_gamma": focal_gamma, "seesaw_p": seesaw_p, "seesaw_q": seesaw_q}
  needed = _kind(name).parameters
  if counts is None and ("log_prior" in needed or "class_weights" in needed):
    raise ValueError(f"class_loss {name!r} needs the class counts of the training data.")
  if "log_prior" in needed:
    parameters["log_prior"] = log_prior(counts)
  if "class_weights" in needed:
    if beta is None:
      raise ValueError(f"class_loss {name!r} needs beta; give a value.")
    parameters["class_weights"] = class_balanced_weights(counts, beta)
  return ClassLoss(name, **{name: parameters[name] for name in needed})


def weighted_loss(
  loss: ClassLoss, logits: jax.Array, label: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Loss of every prediction, and how much it counts; all but "seesaw".

  - cross_entropy: -log p, p the softmax probability of the label.
  - class_balanced: the same, weighted by class (Cui et al., CVPR 2019).
  - balanced_softmax: -log p of the logits plus the log prior (Ren et al., "Balanced Meta-Softmax
    for Long-Tailed Visual Recognition", NeurIPS 2020).
  - logit_adjustment: likewise with tau times the log prior (Menon et al., "Long-tail Learning via
    Logit Adjustment", ICLR 2021).
  - focal: -(1 - p)^gamma log p (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017,
    with the softmax over classes in place of the sigmoid).

  Args:
    loss: which one.
    logits: [..., K], K = C or C + 1, where the last is "no object", with the prior of an average
      class and the weight 1.
    label: [...] integers in 0..K-1.

  Returns:
    (value, weight), float32 [...]; the value is not negative and the weight not part of it.

  Raises:
    ValueError: if the loss is "seesaw", which needs running counts (`seesaw.seesaw_loss`), or
      knows another number of classes.
  """
  if loss.name == "seesaw":
    raise ValueError("the Seesaw loss needs running counts: use seesaw.seesaw_loss.")
  logits = logits.astype(jnp.float32)
  if loss.name in ("balanced_softmax", "logit_adjustment"):
    tau = loss.tau if loss.name == "logit_adjustment" else 1.0
    logits = logits + tau * _of_outputs(loss.log_prior, logits.shape[-1], 0.0)
  picked = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
  value = jax.nn.logsumexp(logits, axis=-1) - picked
  weight = jnp.ones_like(value)
  if loss.name == "class_balanced":
    weight = _of_outputs(loss.class_weights, logits.shape[-1], 1.0)[label]
  elif loss.name == "focal":
    distance = jnp.maximum(-jnp.expm1(-value), _SMALLEST_DISTANCE)  # 1 - p
    value = distance**loss.focal_gamma * value
  return value, weight


def _of_outputs(values: np.ndarray, num_outputs: int, no_object: float) -> jax.Array:
  """Values of the classes [C] as one for each output [K]."""
  if num_outputs not in (len(values), len(values) + 1):
    raise ValueError(
      f"logits have {num_outputs} outputs, but the class loss was made for {len(values)} classes, "
      "with or without no object; make it from the counts of the same data set."
    )
  return jnp.asarray(np.pad(values, (0, num_outputs - len(values)), constant_values=no_object))
