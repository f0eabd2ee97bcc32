"""A frozen backbone: what a step leaves as it is, and the memory that it does not need."""

import jax
import numpy as np
import pytest

from ltss_jax import build, mesh as mesh_lib, optimizer
from ltss_jax.training import run, train_step
from tests import small_models

NUM_TARGETS, SIDE = 4, 64
DECAY = 0.5
# Model -> (backbone, share of the temporaries of training all that is left at most). Seen: 0.57,
# 0.23 and 0.74; of EoMT's three blocks the last one's activations stay.
MODELS = {
  "deeplabv3plus": ("resnet_small", 0.7),
  "mask2former": ("resnet_small", 0.35),
  "eomt": ("dinov2_mini", 0.85),
}


def config_of(model, *, frozen):
  config = small_models.mhp_v2_config(model)
  config.model.update(backbone=MODELS[model][0], backbone_norm="batch_norm", dtype="float32")
  config.model.update(drop_path=0.5, max_targets=NUM_TARGETS, freeze_backbone=frozen, num_blocks=1)
  config.loss.update(mask_annealing_starts=(0.0,), mask_annealing_ends=(1.0,), num_points=64)
  config.optimizer.update(ema_decay=DECAY, warmup_steps=0, backbone_warmup_steps=0, clip_norm=0.0)
  config.data.crop_size, config.batch_size = SIDE, 4
  return config


def batch(has_targets):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
  inputs = {"image": image, "label": rng.integers(0, 4, (4, SIDE, SIDE), dtype=np.uint8)}
  if has_targets:
    inputs["classes"] = np.tile(np.arange(NUM_TARGETS, dtype=np.int32), (4, 1))
    inputs["dropped_classes"] = np.zeros(4, np.int32)
  return inputs


def compiled_step(model, *, frozen):
  """(objective, optimizer, compiled step, batch)."""
  config = config_of(model, frozen=frozen)
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  classes = small_models.NUM_CLASSES
  objective = build.build_objective(config, num_classes=classes, ignore_label=255, mesh=mesh)
  recipe = build.optimizer_config(config)
  transform = optimizer.make_optimizer(recipe, objective.decays, objective.layers_above)
  step = run.make_step_function(config, objective, transform, mesh)
  state = train_step.abstract_state(objective, transform, mesh, DECAY)
  inputs = mesh_lib.put_batch(batch(objective.max_targets), mesh)
  return objective, transform, step.lower(state, inputs).compile(), inputs


def paths(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


@pytest.mark.parametrize(
  "model", ["deeplabv3plus", pytest.param("mask2former", marks=pytest.mark.slow), "eomt"]
)
def test_a_step_leaves_the_backbone_alone_and_needs_less_memory(model):
  objective, transform, step, inputs = compiled_step(model, frozen=True)
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  start = train_step.init_state(objective, transform, 0, mesh, DECAY)
  before = jax.device_get(start)
  after, metrics = step(start, inputs)
  after, metrics = jax.device_get((after, metrics))
  assert metrics["sums"]["skipped_steps"] == 0

  assert "backbone" in before.params and not any("backbone" in p for p in paths(before.opt_state))
  jax.tree.map(np.testing.assert_array_equal, after.params["backbone"], before.params["backbone"])
  statistics = [state.stats.get("backbone", {}) for state in (after, before)]
  jax.tree.map(np.testing.assert_array_equal, *statistics)
  assert "backbone" not in before.ema["params"]
  for name, part in after.params.items():
    changed = jax.tree.map(lambda new, old: np.any(new != old), part, before.params[name])
    assert any(jax.tree.leaves(changed)) == (name != "backbone"), name

  *_, whole, _ = compiled_step(model, frozen=False)
  frozen, full = (program.memory_analysis().temp_size_in_bytes for program in (step, whole))
  assert 0 < frozen < MODELS[model][1] * full


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_backbone_drops_no_paths_and_others_do(frozen):
  """Mask2Former's head has no chance in it: all that differs comes from the backbone."""
  config = config_of("mask2former", frozen=frozen)
  config.model.backbone = "swin_mini"
  model = build.model_functions(config, small_models.NUM_CLASSES)
  params, stats = small_models.random_weights(config)
  image = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)

  @jax.jit
  def train(key):
    return model.apply(params, stats, image, train=True, rng=key)[0].mask_features

  one, other = (np.asarray(train(jax.random.key(seed))) for seed in range(2))
  assert np.array_equal(one, other) == frozen
