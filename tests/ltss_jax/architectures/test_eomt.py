"""EoMT as the train step sees it: masks that anneal within one program, devices, methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import ade20k, common
from input_pipeline import class_stats
from ltss_jax import architectures, build, checkpoint, mesh as mesh_lib, optimizer
from ltss_jax.architectures import eomt
from ltss_jax.results import metrics
from ltss_jax.training import train_step
from ltss_jax.weights import trees
from tests import mask_training, recipes
from tests.mask_batches import NUM_CLASSES, batch, empty_batch

TRANSFORM = optax.sgd(1e-3)
OPTIONS = dict(seed=0, log_every_steps=1, max_nonfinite_steps=0)
NUM_QUERIES = 12


def config_of(backbone="dinov2_mini", **fields):
  shape = dict(num_queries=NUM_QUERIES, num_blocks=2)
  return recipes.eomt_of(NUM_CLASSES, backbone, 64, **(shape | fields))


def loss_of(**fields):
  """Of 4 steps; the masks of the blocks begin to anneal in the first and in the second one."""
  annealing = dict(mask_annealing_starts=(0.0, 0.25), mask_annealing_ends=(0.5, 0.75), steps=4)
  return recipes.eomt_loss(**dict(num_points=64) | annealing | fields)


# By hand: 0.75^0.9, 0.5^0.9 and (1 / 6520)^0.9.
@pytest.mark.parametrize(
  ("step", "expected"),
  [
    (0, (1, 1, 1, 1)),
    (6_519, (1, 1, 1, 1)),
    (6_520, (1, 1, 1, 1)),
    (8_150, (0.7718895, 1, 1, 1)),
    (9_780, (0.5358867, 1, 1, 1)),
    (13_039, (3.6913e-4, 1, 1, 1)),
    (13_040, (0, 1, 1, 1)),
    (14_670, (0, 0.7718895, 1, 1)),
    (19_560, (0, 0, 1, 1)),
    (22_820, (0, 0, 0.5358867, 1)),
    (29_340, (0, 0, 0, 0.5358867)),
    (32_600, (0, 0, 0, 0)),
    (39_152, (0, 0, 0, 0)),
  ],
)
def test_masks_anneal_block_by_block_as_published_for_ade20k(step, expected):
  starts, ends = (6_520, 13_040, 19_560, 26_080), (13_040, 19_560, 26_080, 32_600)
  probabilities = eomt.mask_probabilities(jnp.int32(step), starts, ends)
  np.testing.assert_allclose(probabilities, expected, atol=1e-6)  # float32 progress
  assert probabilities.dtype == jnp.float32


@pytest.mark.parametrize(
  ("backbone", "starts", "ends"),
  [
    ("dinov2_l", (6_520, 13_040, 19_560, 26_080), (13_040, 19_560, 26_080, 32_600)),
    ("dinov3_l", (0, 6_520, 9_780, 13_040), (3_000, 9_780, 13_040, 16_300)),
  ],
)
def test_the_recipes_of_ade20k_anneal_at_the_published_steps(backbone, starts, ends, monkeypatch):
  """As the loss computes them: up to the last step of each stage and from the next one on."""
  config = ade20k.get_config(f"model=eomt,backbone={backbone}")
  seen = []
  monkeypatch.setattr(eomt, "mask_probabilities", lambda step, *steps: seen.append(steps) or 1 / 0)
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  objective = build.build_objective(config, num_classes=5, ignore_label=255, mesh=mesh)
  with pytest.raises(ZeroDivisionError):
    objective.loss({}, {}, batch(1), jax.random.key(0), 0)
  assert [tuple(steps) for steps in seen[0]] == [starts, ends]


ALL_METHODS = loss_of(
  class_loss=recipes.class_loss("seesaw"),
  queries_per_class=(1, 1, 2, 3, 1),
  ignored_pixels="left_out",
)


def with_all_methods(devices):
  """(mesh, objective, step) with a Seesaw head and repeated targets."""
  mesh = mesh_lib.data_mesh(jax.devices()[:devices])
  model = eomt.objective(config_of(class_head="seesaw"), ALL_METHODS, mesh)
  return mesh, model, train_step.make_train_step(model, TRANSFORM, mesh, **OPTIONS)


@pytest.fixture(scope="module")
def trained():
  return mask_training.three_steps(with_all_methods, TRANSFORM)


def test_all_methods_train_alike_on_one_device_and_on_four(trained):
  # Of one state, the same sums in another order. From then on round-off may decide which points are
  # the most uncertain ones, and where a mask logit is above 0.
  tolerances = (1e-6, 1e-3, 1e-3)
  for terms, others, tolerance in zip(trained[1][-1], trained[4][-1], tolerances, strict=True):
    for name in ("loss", "loss_class", "loss_mask", "loss_dice"):
      np.testing.assert_allclose(others[name], terms[name], rtol=tolerance)
    assert terms["invalid_matches"] == terms["skipped_steps"] == 0


def test_counts_of_matches_are_of_all_predictions_on_any_number_of_devices(trained):
  """Three steps of three predictions; there are queries for every column."""
  present = np.array([(batch()["classes"] == c).sum() for c in range(NUM_CLASSES)])
  expected = 3 * 3 * present * np.array(ALL_METHODS.queries_per_class)
  for devices in (1, 4):
    counts = trained[devices][3].stats["seesaw_counts"]
    np.testing.assert_array_equal(counts[:NUM_CLASSES], expected)


def test_steps_with_other_mask_probabilities_and_batches_compile_once(trained):
  starts, ends = (0, 1), (2, 3)  # of the four steps
  probabilities = [eomt.mask_probabilities(step, starts, ends) for step in range(4)]
  assert len({tuple(map(float, p)) for p in probabilities}) == 4
  for mesh, _, step, state, _ in trained.values():
    state = jax.tree.map(jnp.copy, state)  # The step donates it.
    state, outputs = step(state, mesh_lib.put_batch(empty_batch(), mesh))
    terms = jax.device_get(outputs["sums"])
    assert terms["loss_mask"] == terms["loss_dice"] == 0 and terms["skipped_steps"] == 0
    assert int(state.step) == 4 and step._cache_size() == 1


def test_a_resumed_training_continues_with_the_same_bits(trained, tmp_path):
  """In the middle of the annealing, with the counts of the Seesaw loss."""
  mesh, model, step, state, _ = trained[4]
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as saved:
    saved.save(3, state, {"position": 3}, miou=0.5)
    saved.wait()
    resumed, _ = saved.restore(train_step.abstract_state(model, TRANSFORM, mesh), {"position": 0})
  state = jax.tree.map(jnp.copy, state)
  data = mesh_lib.put_batch(batch(), mesh)
  # One after the other: virtual devices may wait long for each other in two programs at a time.
  for _ in range(2):
    state, _ = jax.block_until_ready(step(state, data))
  for _ in range(2):
    resumed, _ = jax.block_until_ready(step(resumed, data))
  assert int(resumed.step) == 5 and resumed.stats["seesaw_counts"].sum() > 0
  jax.tree.map(np.testing.assert_array_equal, resumed, state)


def test_the_masks_of_a_step_follow_from_its_number_alone():
  """Two losses of one state and one key differ where their probabilities do, in one program."""
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  model = eomt.objective(config_of(), loss_of(steps=40), mesh)
  params, stats = model.init(jax.random.key(0))
  params["q"]["embedding"] *= 3  # as many positive mask logits as negative ones
  data = batch(2)
  data["image"] = architectures.normalize(data["image"])
  loss = jax.jit(lambda step: model.loss(params, stats, data, jax.random.key(1), step)[0])
  first, second, late, end = (float(loss(jnp.int32(step))) for step in (0, 15, 30, 39))
  assert late == end  # no masks from step 30 on
  assert len({first, second, end}) == 3
  assert loss._cache_size() == 1


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is_and_has_no_optimizer_state():
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  config = common.get_config()
  names = {"model.name": "eomt", "model.backbone": "dinov2_mini", "model.freeze_backbone": True}
  sizes = {"data.crop_size": 64, "model.num_queries": NUM_QUERIES, "model.num_blocks": 1}
  sizes |= {"loss.mask_annealing_starts": (0.0,), "loss.mask_annealing_ends": (1.0,)}
  sizes |= {"model.max_targets": 4, "loss.num_points": 64, "train.steps": 4}
  config.update_from_flattened_dict(names | sizes)
  model = build.build_objective(config, num_classes=NUM_CLASSES, ignore_label=255, mesh=mesh)
  transform = optax.adamw(1e-3)
  state = train_step.init_state(model, transform, 0, mesh)
  before = jax.tree.map(jnp.copy, state.params)  # The step donates its state.
  step = train_step.make_train_step(model, transform, mesh, **OPTIONS)
  state, outputs = step(state, mesh_lib.put_batch(batch(), mesh))
  assert outputs["sums"]["skipped_steps"] == 0
  backbone = before.pop("backbone")
  jax.tree.map(np.testing.assert_array_equal, state.params["backbone"], backbone)
  for path, leaf in trees.flatten(before).items():
    assert (trees.flatten(state.params)[path] != leaf).any(), path
  assert not any("backbone" in str(path) for path, _ in jax.tree.leaves_with_path(state.opt_state))


@pytest.mark.parametrize(
  "name", ["class_balanced", "balanced_softmax", "logit_adjustment", "focal"]
)
def test_every_class_loss_fits_the_model_that_its_config_builds(name):
  """Traced, not run: what the losses make of the logits of queries, their own tests show."""
  config = common.get_config()
  names = {"model.name": "eomt", "model.backbone": "dinov2_mini", "loss.class_loss": name}
  config.update_from_flattened_dict(names | {"data.crop_size": 64, "train.steps": 4})
  counts = np.array([90, 30, 10, 4, 1])
  stats = class_stats.ClassStats(100, images_with_class=counts, pixel_share_sum=counts / 200)
  model = build.build_objective(
    config,
    num_classes=NUM_CLASSES,
    ignore_label=255,
    mesh=mesh_lib.data_mesh(jax.devices()[:1]),
    train_stats=stats,
  )
  weights = jax.eval_shape(model.init, jax.random.key(0))
  data = dict(batch(2), image=np.zeros((2, 64, 64, 3), np.float32))
  step = jax.value_and_grad(model.loss, has_aux=True)
  (loss, (_, terms)), _ = jax.eval_shape(step, *weights, data, jax.random.key(1), 0)
  assert loss.shape == () and set(terms) == set(model.loss_terms)


def test_every_parameter_decays_and_only_the_encoder_has_layers_above():
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  model = eomt.objective(config_of(), loss_of(), mesh)
  paths = trees.flatten(jax.eval_shape(model.init, jax.random.key(0))[0])
  assert all(map(model.decays, paths))
  above = {path: model.layers_above(path) for path in paths}
  for path, number in above.items():
    if path.startswith("backbone/blocks/"):
      assert number == 2 - int(path.split("/")[2])
    elif path.startswith("backbone/norm/") or not path.startswith("backbone/"):
      assert number == 0
    else:
      assert number == 2
  assert {"q/embedding", "upscale/0/conv1/kernel", "backbone/pos_embed"} <= set(above)


def test_a_seesaw_head_predicts_and_trains_with_its_loss_alone():
  config = config_of(class_head="seesaw")
  model = eomt.architecture(config)
  assert model.input_side == 64
  params, stats = jax.eval_shape(model.init, jax.random.key(0))
  assert params["class_head"]["bias"].shape == (NUM_CLASSES + 2,)
  prediction = jax.eval_shape(model.predict, params, stats, jnp.zeros((2, 64, 64, 3)))
  assert prediction["class_scores"].shape == (2, NUM_QUERIES, NUM_CLASSES)
  training = eomt.objective(config, loss_of(), mesh_lib.data_mesh(jax.devices()[:1]))
  with pytest.raises(ValueError, match=r"class_head='seesaw'.*--config\.loss\.class_loss=seesaw"):
    training.loss(params, stats, batch(2), jax.random.key(0), 0)


@pytest.mark.slow
def test_vit_small_overfits_eight_images():
  """Seen with slower annealing: a mean IoU of 93 % after 20 updates, 97 % after 40."""
  data, mesh = batch(), mesh_lib.data_mesh(jax.devices()[:1])
  config = config_of("vit_small", num_queries=8)
  loss = loss_of(num_points=256, class_weight=5.0, steps=60)
  model, inference = eomt.objective(config, loss, mesh), eomt.architecture(config)
  recipe = recipes.optimizer(
    learning_rate=1e-3, backbone_multiplier=1.0, clip_norm=1.0, poly_power=0.0, warmup_steps=10
  )
  transform = optimizer.make_optimizer(recipe, model.decays, model.layers_above)
  state = train_step.init_state(model, transform, 0, mesh)
  step = train_step.make_train_step(model, transform, mesh, **OPTIONS)
  for _ in range(loss.steps):
    state, _ = step(state, mesh_lib.put_batch(data, mesh))
  image = architectures.normalize(data["image"])
  prediction = jax.jit(inference.predict)(state.params, state.stats, image)
  scores = jax.vmap(lambda p: inference.score_blocks(p, (64, 64))(0, NUM_CLASSES))(prediction)
  counts = metrics.confusion_matrix(data["label"], np.asarray(scores.argmax(-1)), NUM_CLASSES, 255)
  assert metrics.segmentation_scores(counts).miou > 0.9
