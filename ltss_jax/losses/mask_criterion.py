"""Mask2Former's criterion: Hungarian matching, class, mask and dice loss, with deep supervision.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, section 3. All functions work on the images of one shard and return sums; the means are over
the global batch, whatever number of devices holds it.
"""

import jax
import jax.numpy as jnp

from ltss_jax.losses import matching, points
from ltss_jax.losses.criterion_types import CriterionConfig, CriterionSums, Targets
from ltss_jax.losses.mask_costs import matching_costs
from ltss_jax.losses.mask_losses import mask_losses

__all__ = ["CriterionConfig", "CriterionSums", "Targets", "criterion_sums", "total_loss"]


def criterion_sums(
  config: CriterionConfig,
  class_logits: jax.Array,
  mask_logits: jax.Array,
  targets: Targets,
  keys: jax.Array,
  num_classes: int,
) -> CriterionSums:
  """Sums of the loss terms over the images of a shard, for all predictions.

  Randomness comes from a key per image, so the result does not depend on how images are divided
  among devices.

  Args:
    config: settings.
    class_logits: [L, B, Q, C+1]; the last class is "no object".
    mask_logits: [L, B, h, w, Q].
    targets: label maps of any size H x W, and present classes.
    keys: [B] PRNG keys of the images.
    num_classes: C.

  Returns:
    Sums to be added over shards and passed to `total_loss`.

  Raises:
    ValueError: if the class logits do not fit the number of classes.
  """
  if class_logits.shape[-1] != num_classes + 1:
    raise ValueError(
      f"class_logits have {class_logits.shape[-1]} outputs for {num_classes} classes; the class "
      f"head has to give num_classes + 1 = {num_classes + 1}, with no object as the last"
    )
  class_logits, mask_logits = class_logits.astype(jnp.float32), mask_logits.astype(jnp.float32)
  labels, classes = points.pad_labels(targets.labels), targets.classes
  valid = classes >= 0  # [B, T]
  match_keys, loss_keys = prediction_keys(keys, class_logits.shape[0])

  costs = matching_costs(config, class_logits, mask_logits, labels, classes, match_keys)
  target_of_query, query_of_target, invalid = _match(costs, valid, config.matcher)
  class_sum, class_weight_sum = class_losses(
    class_logits, classes, target_of_query, config.no_object_weight
  )
  bce_sum, dice_sum = mask_losses(config, mask_logits, labels, classes, query_of_target, loss_keys)
  return CriterionSums(
    class_sum=class_sum,
    class_weight_sum=class_weight_sum,
    bce_sum=bce_sum,
    dice_sum=dice_sum,
    num_targets=jnp.sum(valid, dtype=jnp.float32),
    nonfinite_logits=_count_nonfinite(class_logits) + _count_nonfinite(mask_logits),
    invalid_matches=invalid,
  )


def total_loss(
  config: CriterionConfig, sums: CriterionSums
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of the global batch, from the sums over all of its images.

  Args:
    config: settings.
    sums: of the global batch.

  Returns:
    float32 scalar, and the three weighted terms that it is the sum of, over all predictions.
  """
  num_masks = jnp.maximum(sums.num_targets, 1.0)
  terms = {
    "loss_class": config.class_weight * jnp.sum(sums.class_sum / sums.class_weight_sum),
    "loss_mask": config.mask_weight * jnp.sum(sums.bce_sum) / num_masks,
    "loss_dice": config.dice_weight * jnp.sum(sums.dice_sum) / num_masks,
  }
  return sum(terms.values()), terms


def prediction_keys(keys: jax.Array, num_predictions: int) -> tuple[jax.Array, jax.Array]:
  """Keys for matching and for losses, each [L, B], from those of the images [B]."""

  def split(prediction, key):
    return jax.random.split(jax.random.fold_in(key, prediction))

  pairs = jax.vmap(jax.vmap(split, (None, 0)), (0, None))(jnp.arange(num_predictions), keys)
  return pairs[..., 0], pairs[..., 1]


def _match(costs, valid, backend):
  """Matches all predictions' and images' costs [L, B, Q, T] at once.

  Returns:
    target_of_query [L, B, Q], query_of_target [L, B, T], each -1 without a partner, and the number
    of invalid answers.
  """
  lead = costs.shape[:2]
  problems = costs.reshape(-1, *costs.shape[2:])
  valid = jnp.broadcast_to(valid, (lead[0], *valid.shape)).reshape(problems.shape[0], -1)
  target_of_query = matching.match(problems, valid, backend)
  target_of_query, query_of_target, invalid = matching.pair_up(target_of_query, valid)
  return target_of_query.reshape(*lead, -1), query_of_target.reshape(*lead, -1), invalid


def class_losses(
  class_logits: jax.Array, classes: jax.Array, target_of_query: jax.Array, no_object_weight: float
) -> tuple[jax.Array, jax.Array]:
  """Weighted cross-entropy of all queries; those without a target are to say "no object".

  Args:
    class_logits: [L, B, Q, C+1] float32.
    classes: [B, T] int32.
    target_of_query: [L, B, Q] int32, -1 without a target.
    no_object_weight: weight of a query without a target; the others have 1.

  Returns:
    [L] sums of the weighted cross-entropy and [L] sums of the weights.
  """
  matched = target_of_query >= 0
  label = jnp.take_along_axis(classes[None], jnp.maximum(target_of_query, 0), axis=-1)
  label = jnp.where(matched, label, class_logits.shape[-1] - 1)  # [L, B, Q]
  weight = jnp.where(matched, 1.0, no_object_weight)
  picked = jnp.take_along_axis(class_logits, label[..., None], axis=-1)[..., 0]
  loss = jax.nn.logsumexp(class_logits, axis=-1) - picked
  return jnp.sum(weight * loss, axis=(1, 2)), jnp.sum(weight, axis=(1, 2))


def _count_nonfinite(logits: jax.Array) -> jax.Array:
  # A float32 sum is cheaper than an integer one here, and exact below 2^24, far above any alarm.
  return jnp.sum(jnp.where(jnp.isfinite(logits), 0.0, 1.0))
