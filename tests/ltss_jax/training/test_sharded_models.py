"""Every architecture trains with a divided state as with a whole one."""

import jax
import numpy as np
import pytest

from input_pipeline import datasets
from ltss_jax import build, mesh as mesh_lib, optimizer
from ltss_jax.training import train_step
from tests import recipes, small_models

NUM_STEPS = 10
OPTIONS = dict(seed=0, log_every_steps=1, max_nonfinite_steps=0)


def batch(config, max_targets):
  """Squares of three classes in each image."""
  rng, size, side = np.random.default_rng(0), config.batch_size, config.data.crop_size
  colors = rng.integers(0, 256, (small_models.NUM_CLASSES, 3))
  classes = np.full((size, max(max_targets, 3)), -1, np.int32)
  classes[:, :3] = rng.integers(0, small_models.NUM_CLASSES, (size, 1)) + np.arange(3)
  classes[:, :3] %= small_models.NUM_CLASSES
  label = classes[np.arange(size)[:, None, None], rng.integers(0, 3, (size, 4, 4))]
  label = label.repeat(side // 4, 1).repeat(side // 4, 2).astype(np.uint8)
  image = np.clip(colors[label] + rng.normal(0, 8, (*label.shape, 3)), 0, 255).astype(np.uint8)
  data = {"image": image, "label": label}
  if max_targets:
    data |= {"classes": np.sort(classes)[:, ::-1], "dropped_classes": np.zeros(size, np.int32)}
  return data


def run(model, fsdp):
  """(losses of ten steps, bytes of the state on a device, in all)."""
  config = small_models.mhp_v2_config(model)
  config.batch_size, config.data.crop_size, config.train.steps = 4, 32, 100
  config.loss.num_points, config.model.max_targets = 64, 4
  if model == "eomt":  # vit_small takes minutes to compile
    config.model.backbone = "dinov2_mini"
  config.model.dtype = "float32"
  mesh = mesh_lib.data_mesh(fsdp=fsdp)
  objective = build.build_objective(
    config,
    num_classes=small_models.NUM_CLASSES,
    ignore_label=255,
    mesh=mesh,
    train_stats=datasets.find_spec("mhp_v2").class_table.train_stats,
  )
  # AdamW makes whole steps of gradients that are nothing but round-off.
  recipe = recipes.optimizer(name="sgd", learning_rate=1e-3, steps=100, clip_norm=1.0)
  transform = optimizer.make_optimizer(recipe, objective.decays, objective.layers_above)
  params, stats = small_models.random_weights(config)
  state = train_step.start_state(objective, transform, params, stats, mesh)
  step = train_step.make_train_step(objective, transform, mesh, **OPTIONS)
  data, losses = mesh_lib.put_batch(batch(config, objective.max_targets), mesh), []
  for _ in range(NUM_STEPS):
    state, metrics = step(state, data)
    losses.append(float(metrics["sums"]["loss"]))
  assert not float(metrics["sums"]["skipped_steps"])
  # Where masks are drawn anew in every step, ten losses do not show that it trains.
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), jax.device_get(state.params), params)
  assert max(jax.tree.leaves(moved)) > 1e-4
  leaves = jax.tree.leaves((state.params, state.opt_state))
  return (
    losses,
    sum(x.addressable_shards[0].data.nbytes for x in leaves),
    sum(x.nbytes for x in leaves),
  )


SLOW = [pytest.param(model, marks=pytest.mark.slow) for model in ("deeplabv3plus", "mask2former")]


@pytest.mark.parametrize("model", ["eomt", *SLOW])
def test_losses_do_not_depend_on_how_the_state_is_divided(model):
  expected, whole, total = run(model, 1)
  assert whole == total
  for fsdp in (2, 4):
    losses, part, total = run(model, fsdp)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    # Nearly all: what does not divide evenly is small.
    assert total / fsdp <= part < 1.02 * total / fsdp
