"""Mask2Former's criterion by the `transformers` package, at the points that ours draws.

Run from the repository: python -m tests.golden.mask_criterion
writes mask_criterion.npz (made with torch 2.15, transformers 5.23 and the random bits of jax
0.10.2).
"""

import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ltss_jax.losses import mask_criterion, points
from tests import recipes

NUM_CLASSES = 12
CONFIG = recipes.criterion(num_points=112)


def problem(seed: int, valid: tuple[int, ...], targets: int, queries: int) -> dict[str, np.ndarray]:
  """Random logits of three predictions, label maps with ignored pixels, and present classes.

  Args:
    seed: seed of the random numbers.
    valid: number of targets in each image.
    targets: T, padding included.
    queries: Q.
  """
  rng = np.random.default_rng(seed)
  batch = len(valid)
  classes = np.full((batch, targets), -1, np.int32)
  labels = np.full((batch, 8, 10), 255, np.uint8)
  for label, row, count in zip(labels, classes, valid, strict=True):
    row[:count] = np.sort(rng.choice(NUM_CLASSES, count, replace=False))
    label[:7] = rng.choice(row[:count], (7, 10)) if count else 255
  labels = labels.repeat(6, 1).repeat(6, 2)  # [B, 48, 60]
  mask_logits = 3 * rng.standard_normal((3, batch, 12, 15, queries))
  return {
    "class_logits": rng.standard_normal((3, batch, queries, NUM_CLASSES + 1)).astype(np.float32),
    "mask_logits": mask_logits.astype(np.float32),
    "labels": labels,
    "classes": classes,
  }


def our_points(seed: int, shape: tuple[int, int, int], config=CONFIG) -> dict[str, np.ndarray]:
  """The points that `criterion_sums` draws for the keys of `image_keys`, without the choice.

  Args:
    seed: seed of the keys.
    shape: (L, B, T).
    config: settings.

  Returns:
    matching [L, B, K, 2], candidates [L, B, T, 3K, 2] and fresh [L, B, T, K/4, 2] (x, y).
  """
  predictions, batch, targets = shape
  match_keys, loss_keys = mask_criterion.prediction_keys(image_keys(seed, batch), predictions)
  split = lambda key, target: jax.random.split(jax.random.fold_in(key, target))  # noqa: E731
  for _ in range(2):
    split = jax.vmap(split, (0, None))
  pair_keys = jax.vmap(split, (None, 0), 2)(loss_keys, jnp.arange(targets))  # [L, B, T, 2]

  def draw(keys, number):
    drawn = jax.vmap(lambda key: points.draw(key, number))(keys.reshape(-1))
    return np.stack([drawn.x, drawn.y], -1).reshape(*keys.shape, number, 2)

  return {
    "matching": draw(match_keys, config.num_points),
    "candidates": draw(pair_keys[..., 0], config.num_candidates),
    "fresh": draw(pair_keys[..., 1], config.num_points - config.num_uncertain),
  }


def image_keys(seed: int, batch: int) -> jax.Array:
  """[B] keys as the training step makes them."""
  return jax.random.split(jax.random.key(seed), batch)


def judge(class_logits, mask_logits, labels, classes, drawn, config=CONFIG):
  """Mask2FormerLoss of transformers with these points in place of its own.

  Args:
    class_logits: as `criterion_sums` takes them, in numpy, like the next three.
    mask_logits: [L, B, h, w, Q].
    labels: [B, H, W].
    classes: [B, T].
    drawn: result of `our_points`.
    config: settings.

  Returns:
    losses [L, 3] (class, mask, dice; no weights), query_of_target [L, B, T], and gradients of the
    weighted sum of all losses by the class and the mask logits.
  """
  import torch
  from transformers import Mask2FormerConfig
  from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

  theirs = Mask2FormerConfig(
    train_num_points=config.num_points,
    class_weight=config.class_weight,
    mask_weight=config.mask_weight,
    dice_weight=config.dice_weight,
    no_object_weight=config.no_object_weight,
  )
  theirs.num_labels = class_logits.shape[-1] - 1
  criterion = Mask2FormerLoss(theirs, {})
  class_logits = torch.tensor(class_logits, requires_grad=True)
  mask_logits = torch.tensor(mask_logits, requires_grad=True)
  present = [row[row >= 0] for row in classes]
  masks = [
    torch.tensor(label[None] == row[:, None, None]).float()
    for label, row in zip(labels, present, strict=True)
  ]
  present = [torch.tensor(row, dtype=torch.long) for row in present]
  losses, weights = [], torch.tensor([config.class_weight, config.mask_weight, config.dice_weight])
  query_of_target = np.full((len(class_logits), *classes.shape), -1, np.int32)
  for i, matched in enumerate(query_of_target):
    prediction = mask_logits[i].permute(0, 3, 1, 2)
    with _random_points(drawn["matching"][i][:, None]):
      pairs = criterion.matcher(prediction, class_logits[i], masks, present)
    for row, (query, target) in zip(matched, pairs, strict=True):
      row[target] = query
    image = np.concatenate([np.full(len(query), b) for b, (query, _) in enumerate(pairs)])
    target = np.concatenate([target for _, target in pairs])
    own_points = [drawn[name][i][image, target] for name in ("candidates", "fresh")]
    number = criterion.get_num_masks(present, device="cpu")
    with _random_points(own_points):
      terms = criterion.loss_masks(prediction, masks, pairs, number)
    terms |= criterion.loss_labels(class_logits[i], present, pairs)
    losses += [terms[name] for name in ("loss_cross_entropy", "loss_mask", "loss_dice")]
  losses = torch.stack(losses).reshape(-1, 3)
  (losses @ weights).sum().backward()
  return {
    "losses": losses.detach().numpy(),
    "query_of_target": query_of_target,
    "class_gradient": class_logits.grad.numpy(),
    "mask_gradient": mask_logits.grad.numpy(),
  }


def _random_points(arrays):
  """Makes torch.rand return these arrays, one after the other."""
  import torch

  queue = iter(arrays)

  def rand(*shape, device=None):
    array = torch.tensor(np.asarray(next(queue)))
    assert array.shape == shape, (array.shape, shape)
    return array

  return mock.patch.object(torch, "rand", rand)


def main() -> None:
  """Writes a problem with padded targets and its answer; points as the 16 bits they are."""
  inputs = problem(0, valid=(6, 4, 9, 1), targets=9, queries=8)
  drawn = our_points(0, (3, *inputs["classes"].shape))
  answer = judge(**inputs, drawn=drawn)
  drawn = {name: np.floor(array * 65536).astype(np.uint16) for name, array in drawn.items()}
  path = pathlib.Path(__file__).with_suffix(".npz")
  np.savez_compressed(path, **inputs, **answer, **drawn)


if __name__ == "__main__":
  main()
