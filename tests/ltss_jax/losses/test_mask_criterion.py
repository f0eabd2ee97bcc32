"""Mask2Former's criterion against `transformers`, over devices, and in its limits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ltss_jax.losses import mask_costs, mask_losses
from ltss_jax.losses.mask_criterion import (
  Targets,
  criterion_sums,
  running_counts,
  total_loss,
)
from tests import recipes
from tests.golden import mask_criterion as generator
from tests.programs import GOLDEN

CONFIG, NUM_CLASSES = generator.CONFIG, generator.NUM_CLASSES
INPUTS = ("class_logits", "mask_logits", "labels", "classes")


def loss(config, class_logits, mask_logits, labels, classes, keys):
  sums = criterion_sums(
    config, class_logits, mask_logits, Targets(labels, classes), keys, NUM_CLASSES
  )
  return total_loss(config, sums)[0], sums


value_and_gradient = jax.jit(
  jax.value_and_grad(loss, argnums=(1, 2), has_aux=True), static_argnums=0
)


def assert_equal_to_judge(inputs, judged, seed, config=CONFIG):
  """Values and gradients of the criterion are those of the judge's dictionary."""
  keys = generator.image_keys(seed, inputs["labels"].shape[0])
  (_, sums), gradients = value_and_gradient(config, *inputs.values(), keys)
  num_masks = max(1, sums.num_targets)
  ours = [sums.class_sum / sums.class_weight_sum, sums.bce_sum / num_masks]
  ours = np.stack([*ours, sums.dice_sum / num_masks], 1)
  # float32 sums over some hundred points.
  np.testing.assert_allclose(ours, judged["losses"], rtol=1e-5, atol=1e-6)
  for ours, name in zip(gradients, ("class_gradient", "mask_gradient"), strict=True):
    theirs = judged[name]
    # Round-off of float32 sums, relative to the largest entry as they cancel.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
  assert sums.invalid_matches == 0 and sums.nonfinite_logits == 0


def test_values_and_gradients_equal_the_golden_ones():
  golden = dict(np.load(GOLDEN / "mask_criterion.npz"))
  shape = (golden["class_logits"].shape[0], *golden["classes"].shape)
  for name, drawn in generator.our_points(0, shape).items():
    # Else the random numbers have changed, not the criterion: write the golden file again.
    np.testing.assert_array_equal(np.floor(drawn * 65536), golden[name], err_msg=name)
  assert_equal_to_judge({name: golden[name] for name in INPUTS}, golden, seed=0)


# All shapes are those of the golden file, for one compilation.
@pytest.mark.parametrize(
  "valid",
  [(3, 8, 1, 5), (9, 2, 9, 9), (0, 3, 0, 1)],
  ids=["padding", "more targets than queries", "images without targets"],
)
def test_values_and_gradients_equal_those_of_transformers(valid):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  inputs = generator.problem(1, valid, targets=9, queries=8)
  drawn = generator.our_points(1, (3, *inputs["classes"].shape))
  assert_equal_to_judge(inputs, generator.judge(**inputs, drawn=drawn), seed=1)


@pytest.fixture(scope="module")
def four_images():
  return generator.problem(2, (5, 1, 0, 9), targets=9, queries=8)


def sharded_loss(config, *arguments):
  """The loss of images that lie on four devices, as a training step computes it."""
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

  def sums_of_all(class_logits, mask_logits, labels, classes, keys):
    sums = criterion_sums(
      config, class_logits, mask_logits, Targets(labels, classes), keys, NUM_CLASSES
    )
    return jax.lax.psum(sums, "data")

  specs = [PartitionSpec(None, "data")] * 2 + [PartitionSpec("data")] * 3
  # optax's loops start from plain zeros, which the check of varying values refuses.
  check = config.matcher == "scipy"
  spread = jax.shard_map(
    sums_of_all, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec(), check_vma=check
  )
  sums = spread(*arguments)
  return total_loss(config, sums)[0], sums


@pytest.mark.parametrize(
  "matcher,calls", [("scipy", 1), pytest.param("optax", 0, marks=pytest.mark.slow)]
)
def test_four_devices_equal_one_with_one_call_of_the_host(four_images, matcher, calls):
  config = dataclasses.replace(CONFIG, matcher=matcher)
  arguments = (*four_images.values(), generator.image_keys(2, 4))
  (value, sums), gradients = value_and_gradient(config, *arguments)
  step = jax.jit(jax.value_and_grad(sharded_loss, (1, 2), has_aux=True), static_argnums=0)
  program = step.lower(config, *arguments).compile()
  targets = re.findall(r'custom_call_target="(ltss_jax[^"]*|[^"]*callback)"', program.as_text())
  assert len(targets) == calls, targets
  (spread_value, spread_sums), spread_gradients = program(*arguments)
  # The same terms of every image, summed in another order.
  np.testing.assert_allclose(spread_value, value, rtol=1e-6)
  for spread, one in zip(jax.tree.leaves(spread_sums), jax.tree.leaves(sums), strict=True):
    np.testing.assert_allclose(spread, one, rtol=1e-5)
  for spread, one in zip(spread_gradients, gradients, strict=True):
    np.testing.assert_allclose(spread, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("valid", [(3, 12, 1, 0), (12, 12, 11, 12)])
def test_places_without_a_target_change_nothing(valid, monkeypatch):
  """With few targets and with many, where both are compiled."""
  inputs, keys = generator.problem(5, valid, targets=12, queries=13), generator.image_keys(5, 4)
  few = inputs["classes"][:, : max(valid)]
  many = np.pad(inputs["classes"], ((0, 0), (0, 18)), constant_values=-1)

  def computed(classes):
    function = jax.value_and_grad(functools.partial(loss, CONFIG), (0, 1), has_aux=True)
    return jax.jit(function)(*(inputs | {"classes": classes}).values(), keys)

  with_few = computed(few)
  monkeypatch.setattr(mask_costs, "_FEW_TARGETS", 6)
  monkeypatch.setattr(mask_losses, "_FEW_PAIRS", 6)
  with_many = computed(many)
  for ours, exact in zip(jax.tree.leaves(with_many), jax.tree.leaves(with_few), strict=True):
    # The same sums in another order.
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-7)


def test_bfloat16_logits_are_computed_in_float32(four_images):
  inputs, keys = dict(four_images), generator.image_keys(2, 4)
  for name in INPUTS[:2]:
    inputs[name] = jnp.asarray(inputs[name], jnp.bfloat16)
  half = value_and_gradient(CONFIG, *inputs.values(), keys)
  for name in INPUTS[:2]:
    inputs[name] = np.asarray(inputs[name], np.float32)
  (value, sums), gradients = value_and_gradient(CONFIG, *inputs.values(), keys)
  # The same float32 numbers; two programs may add them in two orders.
  np.testing.assert_allclose(half[0][0], value, rtol=1e-6)
  np.testing.assert_array_equal(half[0][1].matched, sums.matched)
  for ours, exact in zip(half[1], gradients, strict=True):
    # Rounded once, to the type of the logits.
    np.testing.assert_allclose(np.float32(ours), exact, rtol=2**-8, atol=1e-9)


@pytest.mark.slow
def test_gradients_equal_finite_differences():
  """Along one direction, with the matching and the points of the middle: they have no gradient."""
  inputs = generator.problem(3, (3, 8, 1, 0), targets=9, queries=8)
  keys = generator.image_keys(3, 4)
  # All points random: then a small step changes neither their choice nor, here, the matching.
  config = dataclasses.replace(CONFIG, importance_sample_ratio=0.0)
  _, gradients = value_and_gradient(config, *inputs.values(), keys)
  rng = np.random.default_rng(0)
  step = [1e-2 * rng.standard_normal(g.shape).astype(np.float32) for g in gradients]
  logits = [inputs.pop(name) for name in INPUTS[:2]]

  def along(factor):
    moved = [x + np.float32(factor) * dx for x, dx in zip(logits, step, strict=True)]
    return np.float64(value_and_gradient(config, *moved, *inputs.values(), keys)[0][0])

  slope = sum(float(np.vdot(g, dx)) for g, dx in zip(gradients, step, strict=True))
  # Round-off of the loss, about 30 * 1e-7, over its change of about 1e-2, and the third derivative.
  np.testing.assert_allclose((along(1) - along(-1)) / 2, slope, rtol=1e-3)


def test_no_image_with_targets_leaves_the_class_loss_alone():
  inputs = generator.problem(4, (0,) * 4, targets=9, queries=8)
  (value, sums), gradients = value_and_gradient(
    CONFIG, *inputs.values(), generator.image_keys(0, 4)
  )
  assert sums.num_targets == 0 and not np.any(sums.bce_sum) and not np.any(sums.dice_sum)
  no_object = -jax.nn.log_softmax(inputs["class_logits"])[..., -1]
  np.testing.assert_allclose(value, 2 * no_object.mean((1, 2)).sum(), rtol=1e-6)
  assert np.any(gradients[0]) and not np.any(gradients[1])


def test_nonfinite_logits_are_counted_and_do_not_stop_the_matching():
  inputs = generator.problem(5, (6, 4, 2, 1), targets=9, queries=8)
  inputs["class_logits"][0, 1, 2, 3] = np.nan
  inputs["mask_logits"][1, 0, :2, :3, 4] = np.inf
  inputs["mask_logits"][2, 1, 5, 5, :2] = -np.inf
  (_, sums), _ = value_and_gradient(CONFIG, *inputs.values(), generator.image_keys(0, 4))
  assert sums.nonfinite_logits == 1 + 6 + 2 and sums.invalid_matches == 0


def memory(num_targets, size):
  """Bytes of temporary memory of the criterion with gradients, two images, 847 classes."""
  shape = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
  keys = jax.eval_shape(lambda: generator.image_keys(0, 2))
  arguments = (
    shape((10, 2, 100, 848), np.float32),
    shape((10, 2, size // 4, size // 4, 100), np.float32),
    Targets(shape((2, size, size), np.uint16), shape((2, num_targets), np.int32)),
    keys,
  )

  def value(class_logits, mask_logits, targets, keys):
    config = recipes.criterion()
    return total_loss(
      config, criterion_sums(config, class_logits, mask_logits, targets, keys, 847)
    )[0]

  program = jax.jit(jax.value_and_grad(value, (0, 1))).lower(*arguments).compile()
  return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_target_masks():
  many = memory(num_targets=64, size=512)
  assert many < 1.5 * 2**30
  # More targets have more points, whatever the size of the image. With the size grow the masks of
  # the matched queries and their gradients, at a stride of 4 and for one prediction at a time:
  # 2 / 16 of target masks.
  growth = many - memory(num_targets=8, size=512)
  growth_of_small = memory(num_targets=64, size=256) - memory(num_targets=8, size=256)
  target_masks = 2 * 56 * (512**2 - 256**2) * np.dtype(np.float32).itemsize
  assert growth - growth_of_small < 0.2 * target_masks


@pytest.mark.parametrize(
  "field,value,words",
  [
    ("matcher", "hungarian", "set it to scipy or optax"),
    ("ignored_pixels", "left out", "set it to 'background' or 'left_out'"),
    ("ignored_pixels", "left_out", "without an ignore_label"),
    ("queries_per_class", (1, 0), "every class a number of 1 or more"),
    ("num_points", 0, "num_points is 0"),
    ("pairs_per_step", 0, "pairs_per_step 0"),
    ("importance_sample_ratio", 1.5, "importance_sample_ratio is 1.5"),
    ("oversample_ratio", 0.5, "oversample_ratio is 0.5"),
  ],
)
def test_impossible_settings_are_refused(field, value, words):
  with pytest.raises(ValueError, match=words):
    recipes.criterion(**{field: value})


def test_ignored_pixels_that_are_left_out_do_not_matter(four_images):
  """Neither the logits on them nor the labels beside the classes change costs or losses."""
  config = dataclasses.replace(CONFIG, ignored_pixels="left_out", ignore_label=255)
  keys = generator.image_keys(6, 4)
  inputs = {name: array.copy() for name, array in four_images.items()}
  # The last 6 of 48 rows are ignored: they and what touches them lie in the last 2 of 12 cells.
  (_, sums), gradients = value_and_gradient(config, *inputs.values(), keys)
  assert np.any(inputs["labels"][:, -6:] == 255) and sums.invalid_matches == 0
  # Cell 11 is centred on row 45.5, whose influence ends above row 41.5.
  np.testing.assert_array_equal(gradients[1][:, :, 11], 0)
  assert np.any(gradients[1][:, :, 9])
  inputs["mask_logits"][:, :, 11] = 50.0
  (_, other), _ = value_and_gradient(config, *inputs.values(), keys)
  (_, plain), _ = value_and_gradient(CONFIG, *inputs.values(), keys)
  np.testing.assert_array_equal(plain.num_targets, other.num_targets)
  # Ten points an image are left: none of them sees the changed cells.
  np.testing.assert_allclose(other.bce_sum, sums.bce_sum, rtol=1e-6)
  np.testing.assert_allclose(other.dice_sum, sums.dice_sum, rtol=1e-6)
  assert not np.allclose(plain.bce_sum, other.bce_sum)


def test_an_image_of_ignored_pixels_alone_adds_nothing(four_images):
  config = dataclasses.replace(CONFIG, ignored_pixels="left_out", ignore_label=255)
  ignored = four_images | {"labels": np.full_like(four_images["labels"], 255)}
  (value, sums), gradients = value_and_gradient(
    config, *ignored.values(), generator.image_keys(0, 4)
  )
  assert np.isfinite(value) and not np.any(sums.bce_sum) and not np.any(sums.dice_sum)
  assert not np.any(gradients[1]) and np.all(np.isfinite(gradients[0]))


def test_rare_targets_get_several_queries_and_count_once(four_images):
  numbers = np.ones(NUM_CLASSES, int)
  rare = four_images["classes"][0, 0]
  numbers[rare] = 4
  config = dataclasses.replace(CONFIG, queries_per_class=tuple(numbers.tolist()))
  keys = generator.image_keys(2, 4)
  (_, sums), gradients = value_and_gradient(config, *four_images.values(), keys)
  (_, plain), _ = value_and_gradient(CONFIG, *four_images.values(), keys)
  assert sums.invalid_matches == 0 and sums.num_targets == plain.num_targets == 15
  present = (four_images["classes"] == rare).any(1)
  room = np.minimum((four_images["classes"] >= 0).sum(1) + 3 * present, 8)  # 8 queries an image
  np.testing.assert_array_equal(sums.matched.sum(1), [room.sum()] * 3)
  assert np.all(sums.matched[:, rare] > plain.matched[:, rare])
  assert np.all(sums.bce_sum > plain.bce_sum) and np.all(np.isfinite(gradients[1]))


@pytest.mark.parametrize(
  "classes,numbers,columns", [(3, (1, 5, 2, 90), 8 + 5 + 2), (9, (3, 1), 4), (9, None, 9)]
)
def test_columns_hold_whatever_can_occur(classes, numbers, columns):
  config = recipes.criterion(queries_per_class=numbers)
  assert config.num_columns(num_queries=8, num_targets=classes) == columns


def test_counts_grow_from_the_final_prediction_on():
  matches = np.array([[1, 0], [2, 5], [10, 100]], np.float32)  # the last one is the final one
  counts = running_counts(np.array([1000, 2000], np.float32), matches)
  np.testing.assert_array_equal(counts, [[1011, 2100], [1013, 2105], [1010, 2100]])


def test_a_head_for_another_number_of_classes_is_refused(four_images):
  keys = generator.image_keys(0, 4)
  *logits, labels, classes = four_images.values()
  with pytest.raises(ValueError, match=r"13 outputs for 11 classes.*num_classes \+ 1 = 12"):
    criterion_sums(CONFIG, *logits, Targets(labels, classes), keys, 11)
