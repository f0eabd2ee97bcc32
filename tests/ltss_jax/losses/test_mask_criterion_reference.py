"""Mask2Former's criterion over steps of training, against a literal reference in numpy and scipy.

The reference goes image by image, query by query and class by class in float64; it shares with the
criterion the random points alone.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.optimize

from ltss_jax.losses import class_losses, mask_criterion, points
from ltss_jax.losses.mask_criterion import Targets
from tests import class_loss_reference, recipes

IGNORED, NUM_CLASSES = 255, 6
PREDICTIONS, IMAGES, QUERIES, TARGETS = 3, 2, 8, 5
COUNTS = np.array([900, 40, 3, 0, 12, 100])
NAMES = [name for name in class_losses.CLASS_LOSSES if name != "seesaw"]
# No factor of a loss is 1.
PARAMETERS = dict(
  logit_adjustment_tau=1.5, class_balanced_beta=0.99, focal_gamma=1.5, seesaw_p=0.9, seesaw_q=0.7
)


def make_config(name, **fields):
  """One class has as many columns as there are queries."""
  loss = recipes.class_loss(name, COUNTS, **PARAMETERS)
  numbers = (1, 3, 2, 9, 1, 4)
  fields |= dict(num_points=40, class_loss=loss, queries_per_class=numbers, ignore_label=IGNORED)
  return recipes.criterion(**fields)


@functools.partial(jax.jit, static_argnums=0)
def draw(config, keys):
  """Points (x, y) of matching [L, B], candidates and fresh ones of every pair [L, B, pairs]."""
  match_keys, loss_keys = mask_criterion.prediction_keys(keys, PREDICTIONS)
  fold = lambda key, pair: jax.random.split(jax.random.fold_in(key, pair))  # noqa: E731
  pairs = np.arange(TARGETS * QUERIES)
  pair_keys = jax.vmap(jax.vmap(jax.vmap(fold, (None, 0)), (0, None)), (0, None))(loss_keys, pairs)

  def of(keys, number):
    drawn = jax.vmap(lambda key: points.draw(key, number))(keys.reshape(-1))
    return tuple(x.reshape(*keys.shape, number) for x in drawn)

  num_fresh = config.num_points - config.num_uncertain
  return (
    of(match_keys, config.num_points),
    of(pair_keys[..., 0], config.num_candidates),
    of(pair_keys[..., 1], num_fresh),
  )


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def bilinear(image, at):
  """Values of [H, W] at points (x, y); 0 outside."""
  height, width = image.shape
  x, y = at[0] * width - 0.5, at[1] * height - 0.5
  left, top = np.floor(x).astype(int), np.floor(y).astype(int)
  padded = np.pad(image, 1)
  value = 0.0
  for row in (0, 1):
    for column in (0, 1):
      share = np.abs(1 - row - (y - top)) * np.abs(1 - column - (x - left))
      value = value + share * padded[top + row + 1, left + column + 1]
  return value


def point_losses(config, mask, label, wanted, at):
  """Mean cross-entropy and dice loss of a mask [h, w] for the class `wanted` at points."""
  kept = ~on_ignored(config, label, at)
  logits, target = bilinear(mask, at)[kept], bilinear((label == wanted).astype(float), at)[kept]
  bce = np.mean(np.logaddexp(0, logits) - logits * target) if kept.any() else 0.0
  p = 1 / (1 + np.exp(-logits))
  return bce, 1 - (2 * np.sum(p * target) + 1) / (p.sum() + target.sum() + 1)


def on_ignored(config, label, at):
  """Which points touch ignored pixels that are to be left out."""
  return config.leaves_out & (bilinear((label == IGNORED).astype(float), at) > 0)


def match(config, class_logits, masks, label, classes, at):
  """{query: target} of one image, of [Q, K] and [h, w, Q]."""
  if config.class_loss.name == "seesaw":
    probability = softmax(class_logits[:, :-2]) * softmax(class_logits[:, -2:])[:, :1]
  else:
    probability = softmax(class_logits)
  columns, target_of_column = [], []
  for target, wanted in enumerate(classes):
    if wanted >= 0:
      losses = [point_losses(config, masks[..., q], label, wanted, at) for q in range(QUERIES)]
      cost = -2 * probability[:, wanted] + 5 * np.sum(losses, axis=1)
      columns += [cost] * config.queries_per_class[wanted]
      target_of_column += [target] * config.queries_per_class[wanted]
  if not columns:
    return {}
  pairs = zip(*scipy.optimize.linear_sum_assignment(np.stack(columns, 1)), strict=True)
  return {query: target_of_column[column] for query, column in pairs}


def class_term(config, class_logits, label, counts, seen):
  """Class loss of one prediction, [B, Q, K] and [B, Q]; Seesaw's factors are those of `seen`."""
  loss, values, weights, objectness = config.class_loss, [], [], []
  for index in np.ndindex(label.shape):
    i, z = label[index], class_logits[index]
    if loss.name == "seesaw":
      objectness.append(-np.log(softmax(z[-2:])[0 if i < NUM_CLASSES else 1]))
      if i < NUM_CLASSES:
        factor = seesaw_factors(loss, seen[index][:-2], i, counts)
        values.append(-np.log(np.exp(z[i]) / np.sum(factor * np.exp(z[:-2]))))
        weights.append(1.0)
      continue
    value, weight = class_loss_reference.of_prediction(loss, z, i)
    values.append(value)
    weights.append(weight * (1.0 if i < NUM_CLASSES else 0.1))
  mean = np.dot(values, weights) / np.sum(weights) if values else 0
  return mean + (np.mean(objectness) if objectness else 0)


def seesaw_factors(loss, logits, i, counts):
  p, n = softmax(logits), np.maximum(counts, 1)
  factor = np.ones(NUM_CLASSES)
  for j in range(NUM_CLASSES):
    if n[j] < n[i]:
      factor[j] *= (n[j] / n[i]) ** loss.seesaw_p
    factor[j] *= max(p[j] / max(p[i], 0.01), 1) ** loss.seesaw_q
  return factor


def reference(config, logits, labels, classes, drawn, counts, seen):
  """Weighted class, mask and dice loss over all predictions, and the counts after them."""
  class_logits, mask_logits = logits
  (at_match, candidates, fresh), counts = drawn, counts.copy()
  terms = np.zeros(3)
  for l in (PREDICTIONS - 1, *range(PREDICTIONS - 1)):  # noqa: E741
    label = np.full((IMAGES, QUERIES), NUM_CLASSES)
    for b in range(IMAGES):
      masks, at = mask_logits[l, b], [x[l, b] for x in at_match]
      pairs = match(config, class_logits[l, b], masks, labels[b], classes[b], at)
      rank = np.zeros(TARGETS, int)
      for query, target in sorted(pairs.items()):
        wanted, number = classes[b, target], target + TARGETS * rank[target]
        label[b, query] = wanted
        rank[target] += 1
        counts[wanted] += 1
        of_pair = [[x[l, b, number] for x in drawn] for drawn in (candidates, fresh)]
        at = loss_points(config, masks[..., query], labels[b], *of_pair)
        losses = point_losses(config, masks[..., query], labels[b], wanted, at)
        terms[1:] += 5 * np.array(losses) / np.sum(classes >= 0)
    terms[0] += 2 * class_term(config, class_logits[l], label, counts, seen[l])
  return terms, counts


def loss_points(config, mask, label, candidates, fresh):
  """The most uncertain of the candidates, those on ignored pixels last, and the fresh points."""
  distance = np.abs(bilinear(mask, candidates))
  distance[on_ignored(config, label, candidates)] = np.inf
  chosen = np.argsort(distance, kind="stable")[: config.num_uncertain]
  return [np.append(c[chosen], f) for c, f in zip(candidates, fresh, strict=True)]


def step_inputs(rng, step, outputs):
  """Logits, label maps and classes of a step; in one an image is empty, in one all of them are."""
  class_logits = 2 * rng.standard_normal((PREDICTIONS, IMAGES, QUERIES, outputs))
  mask_logits = 4 * rng.standard_normal((PREDICTIONS, IMAGES, 6, 7, QUERIES))
  values, shares = [*range(NUM_CLASSES), IGNORED], [0.5, 0.2, 0.1, 0.02, 0.05, 0.08, 0.05]
  labels = rng.choice(values, (IMAGES, 6, 7), p=shares).repeat(4, 1).repeat(4, 2).astype(np.uint8)
  labels[{1: [0], 2: [0, 1]}.get(step, [])] = IGNORED
  classes = np.full((IMAGES, TARGETS), -1, np.int32)
  for row, label in zip(classes, labels, strict=True):
    present = np.setdiff1d(label, [IGNORED])[:TARGETS]
    row[: len(present)] = present
  return [class_logits.astype(np.float32), mask_logits.astype(np.float32)], labels, classes


def loss(config, logits, labels, classes, keys, counts):
  sums = mask_criterion.criterion_sums(
    config, *logits, Targets(labels, classes), keys, NUM_CLASSES, counts
  )
  value, terms = mask_criterion.total_loss(config, sums)
  return value, (terms, sums.matched.sum(0), sums.invalid_matches)


@pytest.mark.parametrize(
  ("name", "ignored_pixels"),
  [
    ("seesaw", "left_out"),
    ("class_balanced", "background"),
    *[
      pytest.param(name, "background", marks=pytest.mark.slow)
      for name in NAMES
      if name != "class_balanced"
    ],
  ],
)
def test_five_steps_equal_the_reference(name, ignored_pixels):
  config, rng = make_config(name, ignored_pixels=ignored_pixels), np.random.default_rng(0)
  step = jax.jit(jax.value_and_grad(functools.partial(loss, config), has_aux=True))
  ours = theirs = np.zeros(NUM_CLASSES)
  for i in range(5):
    logits, labels, classes = step_inputs(rng, i, NUM_CLASSES + (2 if name == "seesaw" else 1))
    keys = jax.random.split(jax.random.key(i), IMAGES)
    (value, (terms, matched, invalid)), gradient = step(
      logits, labels, classes, keys, ours.astype(np.float32)
    )
    drawn = jax.tree.map(np.float64, draw(config, keys))
    exact, before = [np.float64(x) for x in logits], theirs

    def judge(logits, counts=before, seen=exact[0], fixed=(labels, classes, drawn)):
      return reference(config, logits, *fixed, counts, seen)

    expected, theirs = judge(exact)
    ours = ours + matched
    np.testing.assert_array_equal(ours, theirs)
    assert invalid == 0
    names = ("loss_class", "loss_mask", "loss_dice")
    # float32 sums over some hundred points and 16 queries.
    np.testing.assert_allclose([terms[n] for n in names], expected, rtol=2e-5)
    np.testing.assert_allclose(value, expected.sum(), rtol=2e-5)
    # Along a random direction; central differences of float64 are good to 1e-8 of the loss.
    direction = [rng.standard_normal(x.shape) for x in exact]
    above, below = (
      judge([x + h * d for x, d in zip(exact, direction, strict=True)])[0].sum()
      for h in (1e-5, -1e-5)
    )
    slope = sum(np.vdot(np.float64(g), d) for g, d in zip(gradient, direction, strict=True))
    scale = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradient))
    # The terms of the sum cancel; their round-off is that of float32 gradients.
    np.testing.assert_allclose(slope, (above - below) / 2e-5, atol=1e-4 * scale)
  if name == "seesaw":  # The counts of the steps before do not play in vain.
    fresh = judge(exact, counts=np.zeros(NUM_CLASSES))[0]
    assert abs(fresh[0] / expected[0] - 1) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_class_term_of_every_loss_equals_the_reference(name):
  config, rng = make_config(name), np.random.default_rng(1)
  logits = 2 * rng.standard_normal((PREDICTIONS, IMAGES, QUERIES, NUM_CLASSES + 1))
  label = rng.integers(0, NUM_CLASSES + 1, logits.shape[:-1])
  total, weight, _ = config.class_head.loss_sums(
    config.class_loss,
    logits.astype(np.float32),
    label,
    no_object_weight=config.no_object_weight,
  )
  expected = [class_term(config, z, y, None, None) for z, y in zip(logits, label, strict=True)]
  np.testing.assert_allclose(total / weight, expected, rtol=1e-5)  # float32 sums of 16 queries
