"""Mask2Former's criterion: Hungarian matching, class, mask and dice loss, with deep supervision.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, section 3. All functions work on the images of one shard and return sums; the means are over
the global batch, whatever number of devices holds it.

With `queries_per_class` the matcher is the one of Li et al., "Frequency-based Matcher for
Long-tailed Semantic Segmentation" (IEEE TMM 2024): a target of a rare class takes part several
times and gets several queries, while `num_targets` counts it once.
"""

import jax
import jax.numpy as jnp

from ltss_jax.losses import matching, points
from ltss_jax.losses.criterion_types import CriterionConfig, CriterionSums, Targets
from ltss_jax.losses.mask_costs import matching_costs
from ltss_jax.losses.mask_losses import mask_losses
from ltss_jax.losses.matching import Pairs

__all__ = ["CriterionConfig", "CriterionSums", "Targets", "criterion_sums", "total_loss"]


def criterion_sums(
  config: CriterionConfig,
  class_logits: jax.Array,
  mask_logits: jax.Array,
  targets: Targets,
  keys: jax.Array,
  num_classes: int,
  counts: jax.Array | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> CriterionSums:
  """Sums of the loss terms over the images of a shard, for all predictions.

  Randomness comes from a key per image, so the result does not depend on how images are divided
  among devices.

  Args:
    config: settings.
    class_logits: [L, B, Q, C + what the class head has beside the classes]. The last prediction is
      the final one.
    mask_logits: [L, B, h, w, Q].
    targets: label maps of any size H x W, and present classes.
    keys: [B] PRNG keys of the images.
    num_classes: C.
    counts: [C] queries matched with every class so far, over the whole training; for a class loss
      that keeps counts.
    axis_name: mesh axis or axes of the shards; None: there is only this one. Such a loss depends on
      the matches of all shards, which are added in one collective for all predictions.

  Returns:
    Sums to be added over shards and passed to `total_loss`.

  Raises:
    ValueError: if the class logits do not fit the number of classes and the class loss.
  """
  _check_outputs(config, class_logits.shape[-1], num_classes)
  class_logits, mask_logits = class_logits.astype(jnp.float32), mask_logits.astype(jnp.float32)
  labels, classes = points.label_maps(targets.labels), targets.classes
  repeats = column_repeats(config, classes, class_logits.shape[2])  # [B, T]
  match_keys, loss_keys = prediction_keys(keys, class_logits.shape[0])

  costs = matching_costs(config, class_logits, mask_logits, labels, classes, match_keys)
  target_of_query, pairs, invalid = _match(config, costs, repeats)
  matched = target_of_query >= 0
  label = jnp.take_along_axis(classes[None], jnp.maximum(target_of_query, 0), axis=-1)
  label = jnp.where(matched, label, num_classes)  # [L, B, Q]
  matches = count_matches(label, num_classes)
  seen = None
  if config.class_loss.keeps_counts:
    total = matches if axis_name is None else jax.lax.psum(matches, axis_name)
    seen = running_counts(counts, total)
  class_sum, class_weight_sum, objectness_sum = config.class_head.loss_sums(
    config.class_loss,
    class_logits,
    label,
    no_object_weight=config.no_object_weight,
    counts=seen,
  )
  bce_sum, dice_sum = mask_losses(config, mask_logits, labels, classes, pairs, loss_keys)
  return CriterionSums(
    class_sum=class_sum,
    class_weight_sum=class_weight_sum,
    objectness_sum=objectness_sum,
    num_queries=jnp.float32(label[0].size),
    matched=matches,
    bce_sum=bce_sum,
    dice_sum=dice_sum,
    num_targets=jnp.sum(classes >= 0, dtype=jnp.float32),
    nonfinite_logits=_count_nonfinite(class_logits) + _count_nonfinite(mask_logits),
    invalid_matches=invalid,
  )


def total_loss(
  config: CriterionConfig, sums: CriterionSums
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of the global batch, from the sums over all of its images.

  Args:
    config: settings.
    sums: sums over the global batch.

  Returns:
    float32 scalar, and the three weighted terms that it is the sum of, over all predictions.
  """
  num_masks = jnp.maximum(sums.num_targets, 1.0)
  # Without any weight there is no loss either: a sum over matched queries, of which there are none.
  weights = jnp.where(sums.class_weight_sum > 0, sums.class_weight_sum, 1.0)
  class_means = sums.class_sum / weights + sums.objectness_sum / sums.num_queries  # [L]
  terms = {
    "loss_class": config.class_weight * jnp.sum(class_means),
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


def _check_outputs(config: CriterionConfig, outputs: int, num_classes: int) -> None:
  beside, names = config.class_head.num_others, config.class_head.others
  if outputs != num_classes + beside:
    raise ValueError(
      f"class_logits have {outputs} outputs for {num_classes} classes; with the class loss "
      f"{config.class_loss.name!r} the class head has to give num_classes + {beside} = "
      f"{num_classes + beside}, with {names} as the last"
    )
  numbers = config.queries_per_class
  if numbers is not None and len(numbers) != num_classes:
    raise ValueError(
      f"queries_per_class are {len(numbers)} for {num_classes} classes; give one for each class"
    )


def column_repeats(config: CriterionConfig, classes: jax.Array, num_queries: int) -> jax.Array:
  """How many columns every target has in the cost matrix.

  Args:
    config: settings.
    classes: [B, T] int32, -1 for padding.
    num_queries: Q, which no target has more columns than: they could not all be matched.

  Returns:
    [B, T] int32, 0 for padding.
  """
  valid = classes >= 0
  if config.queries_per_class is None:
    return valid.astype(jnp.int32)
  numbers = jnp.minimum(jnp.array(config.queries_per_class, jnp.int32), num_queries)  # [C]
  return jnp.where(valid, numbers[jnp.maximum(classes, 0)], 0)


def _match(
  config: CriterionConfig, costs: jax.Array, repeats: jax.Array
) -> tuple[jax.Array, Pairs, jax.Array]:
  """Matches all predictions' and images' costs [L, B, Q, T] at once.

  Returns:
    target_of_query [L, B, Q], -1 without a target; the pairs, [L, B, S]; the number of invalid
    answers.
  """
  lead, (num_queries, num_targets) = costs.shape[:2], costs.shape[2:]
  problems = costs.reshape(-1, num_queries, num_targets)
  repeats = jnp.broadcast_to(repeats, (*lead, num_targets)).reshape(-1, num_targets)
  num_columns = config.num_columns(num_queries, num_targets)
  target_of_query = matching.match(problems, repeats, config.matcher, num_columns)
  target_of_query, invalid = matching.check(target_of_query, repeats)
  pairs = matching.list_pairs(target_of_query, num_targets, min(num_queries, num_columns))
  target_of_query, pairs = jax.tree.map(lambda x: x.reshape(*lead, -1), (target_of_query, pairs))
  return target_of_query, pairs, invalid


def count_matches(label: jax.Array, num_classes: int) -> jax.Array:
  """Number of queries with each class.

  Args:
    label: [L, B, Q] int32, C without a target.
    num_classes: C.

  Returns:
    [L, C] float32, exact below 2^24.
  """

  def of_prediction(label):
    return jnp.zeros(num_classes).at[label.reshape(-1)].add(1.0, mode="drop")

  return jax.vmap(of_prediction)(label)


def running_counts(counts: jax.Array, matches: jax.Array) -> jax.Array:
  """Counts that each prediction's class loss sees: they grow in the order of the release.

  Args:
    counts: [C] before the step.
    matches: [L, C] of the global batch.

  Returns:
    [L, C] float32: the final prediction, which is the last one, has its own matches added; then
    the others follow one after the other.
  """
  in_order = jnp.roll(matches, 1, axis=0)
  return jnp.roll(counts + jnp.cumsum(in_order, axis=0), -1, axis=0)


def _count_nonfinite(logits: jax.Array) -> jax.Array:
  # A float32 sum is cheaper than an integer one here, and exact below 2^24, far above any alarm.
  return jnp.sum(jnp.where(jnp.isfinite(logits), 0.0, 1.0))
