"""Matching costs of masks: class probability, cross-entropy and dice at random points."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ltss_jax.losses import points, sampling
from ltss_jax.losses.criterion_types import CriterionConfig
from ltss_jax.losses.points import LabelMaps

# Most crops have no more targets. Where there are places for twice as many, costs are compiled for
# this number as well.
_FEW_TARGETS = 12


def matching_costs(
  config: CriterionConfig,
  class_logits: jax.Array,
  mask_logits: jax.Array,
  labels: LabelMaps,
  classes: jax.Array,
  keys: jax.Array,
) -> jax.Array:
  """Costs of all pairs, at fresh points for every prediction and image.

  Args:
    config: settings.
    class_logits: [L, B, Q, K] float32.
    mask_logits: [L, B, h, w, Q] float32.
    labels: label maps of the B images.
    classes: [B, T] int32.
    keys: [L, B] PRNG keys.

  Returns:
    [L, B, Q, T] float32 without gradient; columns of padded targets mean nothing.
  """

  def label_values(*inputs):
    return sampling.label_values(labels, *jax.tree.map(lambda x: x[None], inputs))[0]

  def of_targets(image, image_classes, image_class_logits, image_mask_logits, key):
    at = sampling.in_rows(points.draw(key, config.num_points))  # [K]
    target_values = label_values(image, image_classes, at)  # [K, T]
    point_logits = sampling.sample_queries(image_mask_logits, at)  # [K, Q]
    factor = 1.0
    if config.leaves_out:
      ignored = label_values(image, jnp.int32(config.ignore_label), at)
      point_logits, target_values, factor = points.leave_out(ignored, point_logits, target_values)
    return pair_costs(
      config, image_class_logits, point_logits, image_classes, target_values, factor
    )

  def of_image(inputs):
    image, image_classes, *rest = inputs
    return _of_present(lambda some: of_targets(image, some, *rest), image_classes)

  # One image at a time, as the logits at the points are K x Q numbers.
  def of_prediction(inputs):
    return lax.map(of_image, (jnp.arange(classes.shape[0]), classes, *inputs))

  class_logits, mask_logits = lax.stop_gradient((class_logits, mask_logits))
  costs = lax.map(of_prediction, (class_logits, mask_logits, keys))  # [L, B, T, Q]
  return jnp.swapaxes(costs, -1, -2)


def _of_present(costs: Callable[[jax.Array], jax.Array], classes: jax.Array) -> jax.Array:
  """Costs that grow with the targets of an image, not with the places that there are for them.

  Args:
    costs: [t] classes -> [t, Q] costs.
    classes: [T] int32, -1 for padding.

  Returns:
    [T, Q] costs; 0 for what lies behind the last target.
  """
  places = len(classes)
  if places < 2 * _FEW_TARGETS:
    return costs(classes)

  def of_few(classes):
    return jnp.pad(costs(classes[:_FEW_TARGETS]), ((0, places - _FEW_TARGETS), (0, 0)))

  return lax.cond(jnp.any(classes[_FEW_TARGETS:] >= 0), costs, of_few, classes)


def pair_costs(
  config: CriterionConfig,
  class_logits: jax.Array,
  point_logits: jax.Array,
  classes: jax.Array,
  target_values: jax.Array,
  factor: jax.Array | float = 1.0,
) -> jax.Array:
  """Costs of every target with every query of an image.

  Args:
    config: settings.
    class_logits: [Q, K] float32, of the head that goes with the class loss.
    point_logits: [K, Q] float32 mask logits at the points.
    classes: [T] int32.
    target_values: [K, T] target masks at the points.
    factor: factor of the cross-entropy, from `points.leave_out`.

  Returns:
    [T, Q] float32: -2 p(class) + 5 BCE + 5 dice, with the default weights. Targets lead, since
    XLA's CPU products of this shape are the fast ones.
  """
  # As inference has it: without what a loss adds to the logits.
  probability = config.class_head.probability(class_logits)
  class_cost = -jnp.take(probability, jnp.maximum(classes, 0), axis=-1).T  # [T, Q]
  mask = jax.nn.sigmoid(point_logits)  # [K, Q]
  bce = _softplus_sums(point_logits, mask) - _product(target_values, point_logits)
  sizes = jnp.sum(mask, axis=0) + jnp.sum(target_values, axis=0)[:, None]
  dice = 1 - (2 * _product(target_values, mask) + 1) / (sizes + 1)
  return (
    config.class_weight * class_cost
    + config.mask_weight * factor * bce / point_logits.shape[0]
    + config.dice_weight * dice
  )


def _softplus_sums(logits: jax.Array, probability: jax.Array) -> jax.Array:
  """Sums over the points [K, Q] of softplus(x) = max(x, 0) - log(max(p, 1 - p)): [Q].

  64 factors between 1/2 and 1 are multiplied before a logarithm is taken, which would otherwise
  cost more than all the rest of the cross-entropy.
  """
  factor = jnp.maximum(probability, 1 - probability)
  padded = jnp.pad(factor, ((0, -factor.shape[0] % 64), (0, 0)), constant_values=1.0)
  products = jnp.prod(padded.reshape(64, -1, padded.shape[1]), axis=0)
  return jnp.sum(jnp.maximum(logits, 0), axis=0) - jnp.sum(jnp.log(products), axis=0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Sums over points, [K, T] with [K, Q] to [T, Q], in float32 whatever the default precision."""
  return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)
