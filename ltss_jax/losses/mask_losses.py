"""Mask2Former's losses of matched pairs: cross-entropy and dice at uncertain and random points."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from ltss_jax.losses import points, sampling, uncertain_points
from ltss_jax.losses.criterion_types import CriterionConfig
from ltss_jax.losses.matching import Pairs
from ltss_jax.losses.points import LabelMaps, Points

# Most batches have no more pairs an image, on average. Where there may be twice as many, the losses
# are compiled for this number as well.
_FEW_PAIRS = 12


def mask_losses(
  config: CriterionConfig,
  mask_logits: jax.Array,
  labels: LabelMaps,
  classes: jax.Array,
  pairs: Pairs,
  keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy and dice loss of the matched pairs of all predictions.

  Args:
    config: settings.
    mask_logits: [L, B, h, w, Q] float32.
    labels: label maps of the B images.
    classes: [B, T] int32.
    pairs: [L, B, S] queries and their targets.
    keys: [L, B] PRNG keys; every pair of an image has its own points.

  Returns:
    [L] cross-entropy (mean over a pair's points) and [L] dice loss, both summed over pairs.
  """
  size = min(config.pairs_per_step, pairs.query[0].size)

  def of_steps(num_steps):
    def of_prediction(inputs):
      return _prediction_losses(config, labels, classes, (num_steps, size), *inputs)

    # The choice of points is kept for the backward pass, all else is computed again there.
    policy = jax.checkpoint_policies.save_only_these_names("points")
    return lambda *inputs: lax.map(jax.checkpoint(of_prediction, policy=policy), inputs)

  # Steps of padding cost little, but there may be ten times as many of them as of real ones.
  few, most = (-(-number // size) for number in (_FEW_PAIRS * len(classes), pairs.query[0].size))
  if most < 2 * few:
    return of_steps(most)(mask_logits, pairs, keys)
  is_more = jnp.any(jnp.sum(pairs.query >= 0, axis=(1, 2)) > few * size)
  return lax.cond(is_more, of_steps(most), of_steps(few), mask_logits, pairs, keys)


def _prediction_losses(config, labels, classes, steps, mask_logits, pairs, keys):
  """`mask_losses` of one prediction: the same arguments without L, scalars as result."""
  real, image, query, target, rank = _in_steps(pairs, *steps)
  number = target + classes.shape[1] * rank  # of the pair, within its image
  pair_keys = jax.vmap(jax.vmap(jax.random.fold_in))(keys[image], number)
  take = lambda b, q: mask_logits[b, :, :, q]  # noqa: E731
  masks = jax.vmap(jax.vmap(take))(image, query)  # [steps, P, h, w]

  def choose(inputs):
    return draw_loss_points(config, labels, *inputs)

  at = lax.map(choose, (image, real, lax.stop_gradient(masks), pair_keys))  # [steps, P, K]
  at = Points(*(checkpoint_name(coordinate, "points") for coordinate in at))

  def of_pairs(masks, at, image, target, real):
    target_values = sampling.label_values(labels, image, classes[image, target], at)  # [P, K]
    logits, factor = sampling.sample_masks(masks, at), 1.0
    if config.leaves_out:
      ignored = sampling.label_values(labels, image, _each(config.ignore_label, image), at)
      left = jax.vmap(points.leave_out)(ignored, logits, target_values)
      logits, target_values, factor = left
    bce, dice = jax.vmap(point_losses)(logits, target_values)
    return jnp.where(real, factor * bce, 0.0), jnp.where(real, dice, 0.0)

  @jax.checkpoint
  def step(inputs):
    return _if_any(inputs[-1], of_pairs, *inputs)

  bce, dice = lax.map(step, (masks, at, image, target, real))
  return bce.sum(), dice.sum()


def _in_steps(pairs: Pairs, num_steps: int, size: int) -> tuple[jax.Array, ...]:
  """Pairs in steps, the matched ones first, so that whole steps of padding can be skipped.

  Args:
    pairs: [B, S].
    num_steps: enough for all real pairs.
    size: P, pairs of a step.

  Returns:
    (real, image, query, target, rank), each [steps, P]: whether it is a pair, and its indices.
  """
  pairs_per_image = pairs.query.shape[1]
  query, target, rank = (index.reshape(-1) for index in pairs)
  order = jnp.argsort(query < 0, stable=True).astype(jnp.int32)
  order = jnp.pad(order, (0, -query.size % size), mode="edge")[: num_steps * size]
  real = jnp.arange(order.size) < jnp.sum(query >= 0)
  indices = jnp.maximum(query[order], 0), target[order], rank[order]
  return tuple(x.reshape(-1, size) for x in (real, order // pairs_per_image, *indices))


def _if_any(flags: jax.Array, function, *arguments):
  """function(*arguments) if any flag is set, zeros of its shape otherwise."""
  # Not a plain zero, as both branches have to be marked as a shard's own value.
  zero = jnp.sum(flags & False)

  def blank(*arguments):
    shapes = jax.eval_shape(function, *arguments)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + zero.astype(x.dtype), shapes)

  return lax.cond(jnp.any(flags), function, blank, *arguments)


def draw_loss_points(
  config: CriterionConfig,
  labels: LabelMaps,
  image: jax.Array,
  real: jax.Array,
  masks: jax.Array,
  keys: jax.Array,
) -> Points:
  """Points for the losses of P masks: uncertain ones and random ones.

  Where ignored pixels are left out, candidates on them come last.

  Args:
    config: settings.
    labels: label maps of the B images.
    image: [P] int32, the image of each mask.
    real: [P] bool; where all are false, the points mean nothing.
    masks: [P, h, w] float32 logits.
    keys: [P] PRNG keys.

  Returns:
    [P, K] points.
  """
  draw = jax.vmap(points.draw, (0, None))
  num_fresh = config.num_points - config.num_uncertain

  def candidates(image, masks, keys):
    keys = jax.vmap(jax.random.split)(keys)  # [P, 2]
    candidates = sampling.in_rows(draw(keys[:, 0], config.num_candidates))  # [P, 3K]
    logits = sampling.sample_masks(masks, candidates)
    if config.leaves_out:
      ignored = _each(config.ignore_label, image)
      ignored = sampling.label_values(labels, image, ignored, candidates)
      logits = jnp.where(ignored > 0, jnp.inf, logits)
    return candidates, logits, draw(keys[:, 1], num_fresh)

  def choose(*inputs):
    return uncertain_points.choose(*inputs, config.num_uncertain)

  # Two conditions, since XLA would otherwise draw and sample again wherever the logits are used.
  return _if_any(real, choose, *_if_any(real, candidates, image, masks, keys))


def _each(label: int, image: jax.Array) -> jax.Array:
  """The label for each of the images [P]."""
  return jnp.full_like(image, label)


def point_losses(logits: jax.Array, target_values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean cross-entropy and dice loss over the points of one mask.

  Args:
    logits: [K] float32.
    target_values: [K] float32 in [0, 1].

  Returns:
    Two float32 scalars.
  """
  softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
  bce = jnp.mean(softplus - logits * target_values)
  probability = jax.nn.sigmoid(logits)
  overlap = jnp.sum(probability * target_values)
  return bce, 1 - (2 * overlap + 1) / (jnp.sum(probability) + jnp.sum(target_values) + 1)
