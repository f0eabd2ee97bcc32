"""What a loss of class logits is: one class, whose fields are its parameters."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, eq=False)
class ClassLoss(abc.ABC):
  """How logits of C classes (or C classes and "no object") are compared with labels.

  A field of a loss is a parameter: `train_images` and `prior_counts` are statistics of the training
  data, float [C], all others have the name of their field in `config.loss`.

  Attributes:
    name: its name in `config.loss.class_loss`.
    favours_rare_classes: whether a sample of a rare class counts for more than one of a frequent.
    keeps_counts: whether the samples of every class so far are part of the train state.
    class_head: head of a mask classifier that gives its logits, a name in `class_heads.HEADS`.
  """

  name: ClassVar[str]
  favours_rare_classes: ClassVar[bool] = False
  keeps_counts: ClassVar[bool] = False
  class_head: ClassVar[str] = "softmax"

  @abc.abstractmethod
  def __call__(
    self, logits: jax.Array, label: jax.Array, counts: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Compares every prediction with its label.

    Args:
      logits: [..., K], K = C or C + 1, where the last is "no object", with the prior of an average
        class and the weight 1.
      label: [...] integers in 0..K-1.
      counts: [C] samples of every class so far, for a loss that keeps counts.

    Returns:
      (value, weight), float32 [...]; the value is not negative and the weight not part of it.

    Raises:
      ValueError: the loss was made for another number of classes, or lacks its counts.
    """


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  """-log p, p the softmax probability of the label.

  Args:
    logits: [..., K] float32.
    label: [...] integers in 0..K-1.

  Returns:
    [...] float32.
  """
  picked = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked
