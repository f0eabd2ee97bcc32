"""The two class heads of mask classifiers: what their outputs mean, and the loss of all queries."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from ltss_jax.losses.class_loss_type import ClassLoss


class ClassHead(abc.ABC):
  """What the outputs of a class head mean.

  Attributes:
    num_others: number of outputs beside the classes.
    others: their names, for messages.
  """

  num_others: ClassVar[int]
  others: ClassVar[str]

  @abc.abstractmethod
  def probability(self, class_logits: jax.Array) -> jax.Array:
    """Probability of every class, [..., C + others] -> [..., at least C]."""

  @abc.abstractmethod
  def loss_sums(
    self,
    class_loss: ClassLoss,
    class_logits: jax.Array,
    label: jax.Array,
    *,
    no_object_weight: float,
    counts: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss of all queries.

    Args:
      class_loss: loss of each query.
      class_logits: [L, B, Q, C + others] float32.
      label: [L, B, Q] int32, C without a target.
      no_object_weight: weight of the queries without a target, beside 1, where "no object" is
        taken for a class.
      counts: [L, C] samples of every class so far, where the loss keeps counts.

    Returns:
      Three [L]: sums of the weighted loss, sums of the weights, sums of the objectness loss.
    """


class SoftmaxHead(ClassHead):
  """Logits of C classes and "no object", which exclude each other."""

  num_others = 1
  others = "no object"

  def probability(self, class_logits):
    return jax.nn.softmax(class_logits)

  def loss_sums(self, class_loss, class_logits, label, *, no_object_weight, counts=None):
    loss, weight = _of_queries(class_loss, class_logits, label, counts)
    no_object = label == class_logits.shape[-1] - 1
    weight = weight * jnp.where(no_object, no_object_weight, 1.0)
    return (
      jnp.sum(weight * loss, axis=(1, 2)),
      jnp.sum(weight, axis=(1, 2)),
      jnp.zeros(len(label)),
    )


class ObjectnessHead(ClassHead):
  """Logits of C classes, and two of object and no object, as the Seesaw loss wants them.

  The class loss is of the queries with a target, a two-way cross-entropy of all queries.
  """

  num_others = 2
  others = "object and no object"

  def probability(self, class_logits):
    objectness = jax.nn.softmax(class_logits[..., -2:])[..., :1]
    return jax.nn.softmax(class_logits[..., :-2]) * objectness

  def loss_sums(self, class_loss, class_logits, label, *, no_object_weight, counts=None):
    del no_object_weight
    num_classes = class_logits.shape[-1] - 2
    matched = label < num_classes
    values, _ = _of_queries(
      class_loss, class_logits[..., :-2], jnp.minimum(label, num_classes - 1), counts
    )
    log_objectness = jax.nn.log_softmax(class_logits[..., -2:])
    objectness = -jnp.where(matched, log_objectness[..., 0], log_objectness[..., 1])
    return (
      jnp.sum(jnp.where(matched, values, 0.0), axis=(1, 2)),
      jnp.sum(matched, axis=(1, 2), dtype=jnp.float32),
      jnp.sum(objectness, axis=(1, 2)),
    )


def _of_queries(
  class_loss: ClassLoss, class_logits: jax.Array, label: jax.Array, counts: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """(value, weight) of every query [L, B, Q]; each prediction has counts of its own."""
  if counts is None:
    return class_loss(class_logits, label)
  return jax.vmap(class_loss)(class_logits, label, counts)


# Under the names of config.model.class_head.
HEADS: dict[str, ClassHead] = {"softmax": SoftmaxHead(), "seesaw": ObjectnessHead()}
