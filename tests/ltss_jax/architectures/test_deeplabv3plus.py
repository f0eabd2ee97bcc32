"""DeepLabV3+ with its class losses, against a literal numpy Seesaw loss over several steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ltss_jax import checkpoint, mesh as mesh_lib
from ltss_jax.architectures import deeplabv3plus
from ltss_jax.losses import class_losses
from ltss_jax.models import deeplabv3plus as model_lib
from ltss_jax.training import train_step
from tests import recipes

SMALL = recipes.deeplabv3plus_of(
  num_classes=5,
  backbone="resnet_small",
  aspp_channels=16,
  aspp_dilations=(1, 2),
  low_level_channels=8,
  decoder_channels=16,
)
IGNORED = 255
COUNTS = np.array([90, 4, 30, 0, 1])


def objective(name="seesaw", config=SMALL):
  loss = recipes.pixel_loss(class_loss=recipes.class_loss(name, counts=COUNTS))
  return deeplabv3plus.SPEC.objective(config, loss)


def labels(seed, batch=2, side=16):
  """Long-tailed labels without the last class, and a share of ignored pixels."""
  rng = np.random.default_rng(seed)
  label = rng.choice(4, (batch, side, side), p=[0.8, 0.15, 0.04, 0.01]).astype(np.uint8)
  return np.where(rng.random(label.shape) < 0.1, IGNORED, label).astype(np.uint8)


def literal_seesaw(logits, label, counts, p, q):
  """(loss, gradient of the loss over the logits) of one pixel, entry by entry."""
  probability = np.exp(logits - logits.max())
  probability /= probability.sum()
  factor = np.ones(len(logits))
  for j in range(len(logits)):
    if counts[j] < counts[label]:
      factor[j] *= (max(counts[j], 1) / max(counts[label], 1)) ** p
    if probability[j] > max(probability[label], 0.01):
      factor[j] *= (probability[j] / max(probability[label], 0.01)) ** q
  scaled = factor * np.exp(logits - logits.max())
  scaled /= scaled.sum()
  return -np.log(scaled[label]), scaled - np.eye(len(logits))[label]


def literal_loss(logits, label, counts, p, q):
  """Mean over the hardest fifth of the pixels, and its gradient summed over the pixels."""
  values, gradients = [], []
  for z, y in zip(logits.reshape(-1, logits.shape[-1]), label.ravel(), strict=True):
    ignored = y == IGNORED
    value, gradient = (0, 0 * z) if ignored else literal_seesaw(z, y, counts, p, q)
    values.append(value)
    gradients.append(gradient)
  hardest = np.argsort(values)[::-1][: int(0.2 * len(values))]
  return np.mean(np.array(values)[hardest]), np.array(gradients)[hardest].mean(0)


def test_seesaw_is_a_literal_reference_over_steps():
  seesaw, model = objective(), model_lib.functions(SMALL)
  params, stats = seesaw.init(jax.random.key(0))
  # Large weights, so that wrong answers are confident and both factors play.
  params["classifier"]["kernel"] *= 1000
  image = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
  step = jax.jit(jax.value_and_grad(seesaw.loss, has_aux=True))

  @jax.jit
  def full_logits(params, stats, rng):
    logits, _ = model.apply(params, stats, image, train=True, rng=rng)
    return model_lib.full_resolution(logits, 16, 16)

  counts = np.zeros(5)
  for i in range(5):
    label, rng = labels(i), jax.random.key(i)
    counts += np.bincount(label.ravel(), minlength=256)[:5]
    of_model = {name: value for name, value in stats.items() if name != "seesaw_counts"}
    logits = np.asarray(full_logits(params, of_model, rng), np.float64)
    batch = {"image": image, "label": label}
    (value, (stats, terms)), gradient = step(params, stats, batch, rng, i)
    expected, slope = literal_loss(logits, label, counts, 1.2, 1.0)
    # The reference sees float32 logits of about 10; the loss's own sums are over 102 pixels.
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(gradient["classifier"]["bias"], slope, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(stats["seesaw_counts"], counts)
    assert terms["loss"] == value
    for p, q in ((0, 1.0), (1.2, 0)):  # Neither factor is idle here.
      assert abs(literal_loss(logits, label, counts, p, q)[0] / expected - 1) > 0.01
    params = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
  assert counts[4] == 0


TRANSFORM = optax.sgd(1e-3)


@pytest.fixture(scope="module")
def fresh_state():
  """In host memory, for every step that starts from it."""
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  return jax.device_get(train_step.init_state(objective(), TRANSFORM, 0, mesh))


def test_counts_are_of_the_global_batch_on_any_number_of_devices(fresh_state):
  label = labels(0, batch=8, side=32)
  image = np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
  losses = []
  for devices in (1, 4):
    mesh = mesh_lib.data_mesh(jax.devices()[:devices])
    state = jax.device_put(fresh_state, mesh_lib.replicated(mesh))
    step = train_step.make_train_step(
      objective(), TRANSFORM, mesh, seed=0, log_every_steps=1, max_nonfinite_steps=1
    )
    batch = mesh_lib.put_batch({"image": image, "label": label}, mesh)
    for _ in range(3):
      state, metrics = step(state, batch)
    losses.append(metrics["sums"]["loss"])
    # A step that is left out leaves its pixels out as well.
    bad = mesh_lib.put_batch({"image": np.full_like(image, np.nan), "label": label}, mesh)
    state, metrics = step(state, bad)
    assert metrics["sums"]["skipped_steps"] == 1
    counts = jax.device_get(state.stats["seesaw_counts"])
    np.testing.assert_array_equal(counts, 3 * np.bincount(label.ravel(), minlength=256)[:5])
    assert step._cache_size() == 1
  # Sums over the batch in another order, float32.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.fixture(scope="module")
def accumulating():
  """(mesh, step in two parts, batch)."""
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  options = dict(seed=0, log_every_steps=1, max_nonfinite_steps=0, grad_accumulation=2)
  step = train_step.make_train_step(objective(), TRANSFORM, mesh, **options)
  image = np.random.default_rng(1).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
  batch = mesh_lib.put_batch({"image": image, "label": labels(0, batch=4)}, mesh)
  return mesh, step, batch


def test_accumulation_counts_every_pixel_once(accumulating, fresh_state):
  """As a step in one part does: see the test of the global batch."""
  mesh, step, batch = accumulating
  state = jax.device_put(fresh_state, mesh_lib.replicated(mesh))
  expected = np.bincount(np.asarray(batch["label"]).ravel(), minlength=256)[:5]
  for i in (1, 2):
    state, metrics = step(state, batch)
    np.testing.assert_array_equal(state.stats["seesaw_counts"], i * expected)
    assert metrics["sums"]["skipped_steps"] == 0


def test_a_resumed_seesaw_training_continues_with_the_same_bits(
  accumulating, fresh_state, tmp_path
):
  mesh, step, batch = accumulating
  abstract = train_step.abstract_state(objective(), TRANSFORM, mesh)
  state = jax.device_put(fresh_state, mesh_lib.replicated(mesh))
  state, _ = step(state, batch)
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as saved:
    saved.save(1, state, {"next_batch": 1})
    for _ in range(2):
      state, _ = step(state, batch)
    saved.wait()
    resumed, _ = saved.restore(abstract, {"next_batch": 0})
  assert np.any(resumed.stats["seesaw_counts"])
  for _ in range(2):
    resumed, _ = step(resumed, batch)
  assert int(resumed.step) == 3
  jax.tree.map(np.testing.assert_array_equal, resumed, state)


def test_every_loss_in_bfloat16_and_without_labels():
  """With one compilation: the statistics of a step fit into the next.

  One backward pass of the sum of all losses, as each takes seconds to compile: its gradient is
  finite only where those of all of them are.
  """
  config = dataclasses.replace(SMALL, dtype="bfloat16")
  options = {name: objective(name, config) for name in class_losses.CLASS_LOSSES}
  params, counted = options["seesaw"].init(jax.random.key(0))
  plain = {name: value for name, value in counted.items() if name != "seesaw_counts"}
  stats = {name: counted if name == "seesaw" else plain for name in options}
  for name, option in options.items():
    shapes = jax.eval_shape(option.init, jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure((params, stats[name])), name
  image = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))

  def total(params, stats, label):
    batch, key = {"image": image, "label": label}, jax.random.key(2)
    losses = {n: option.loss(params, stats[n], batch, key, 0) for n, option in options.items()}
    values = {name: value for name, (value, _) in losses.items()}
    return sum(values.values()), (
      values,
      {n: new_stats for n, (_, (new_stats, _)) in losses.items()},
    )

  step = jax.jit(jax.value_and_grad(total, has_aux=True))
  # The last class, which the counts have none of, is in the labels as well.
  shown, new_stats = np.where(labels(0) == 3, 4, labels(0)), stats
  for label in (shown, np.full_like(shown, IGNORED)):
    (_, (values, new_stats)), gradient = step(params, new_stats, label)
    for name, value in values.items():
      assert value.dtype == jnp.float32 and np.isfinite(value), name
      assert (value > 0) == (label != IGNORED).any(), name
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, new_stats)))
  assert step._cache_size() == 1
  assert jax.tree.structure(new_stats) == jax.tree.structure(stats)


def test_inference_needs_no_counts_and_takes_the_prior_off():
  prior = np.array([2.0, 0, -1, 0, 0], np.float32)
  plain, adjusted = (
    deeplabv3plus.SPEC.architecture(SMALL),
    deeplabv3plus.SPEC.architecture(SMALL, prior),
  )
  params, stats = objective().init(jax.random.key(0))
  image = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
  logits = plain.predict(params, stats, image)
  without = {name: value for name, value in stats.items() if name != "seesaw_counts"}
  np.testing.assert_array_equal(plain.predict(params, without, image), logits)
  np.testing.assert_array_equal(adjusted.predict(params, stats, image), logits - prior)
  # At full size as well: interpolation keeps constants, to float32 rounding.
  full = plain.score_blocks(logits[0], (32, 32))(0, 5)
  shifted = adjusted.score_blocks((logits - prior)[0], (32, 32))(0, 5)
  np.testing.assert_allclose(shifted, full - prior, atol=1e-6)


@pytest.mark.parametrize("name", class_losses.CLASS_LOSSES)
def test_losses_that_favour_rare_classes_are_warned_about_with_mining(caplog, name):
  loss = recipes.class_loss(name, counts=COUNTS)
  for fraction in (0.2, 1.0):
    caplog.clear()
    with caplog.at_level("WARNING", "absl"):
      settings = recipes.pixel_loss(class_loss=loss, hard_pixel_fraction=fraction)
      deeplabv3plus.SPEC.objective(SMALL, settings)
    warned = "favours rare classes twice" in caplog.text
    assert warned == (loss.favours_rare_classes and fraction < 1)
    assert not warned or f"config.loss.class_loss={name} " in caplog.text
