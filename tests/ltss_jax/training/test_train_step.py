"""The training step: what it computes, and that the number of devices does not matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ltss_jax import architectures, mesh as mesh_lib
from ltss_jax.architectures import deeplabv3plus
from ltss_jax.models import functional, layers
from ltss_jax.training import train_step
from tests import recipes
from tests.ltss_jax.training import linear

SMALL = recipes.deeplabv3plus_of(
  num_classes=5,
  backbone="resnet_small",
  aspp_channels=16,
  aspp_dilations=(1, 2),
  aspp_dropout=0.1,
  low_level_channels=8,
  decoder_channels=16,
)


def batch(size=8, side=32, num_classes=5):
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
    "label": rng.integers(0, num_classes, (size, side, side), dtype=np.uint8),
  }


def run(objective, data, steps, devices=1, rate=0.1, **options):
  mesh = mesh_lib.data_mesh(jax.devices()[:devices])
  transform = optax.sgd(rate)
  state = train_step.init_state(objective, transform, 0, mesh)
  options = {"seed": 0, "log_every_steps": 2, "max_nonfinite_steps": 0} | options
  step = train_step.make_train_step(objective, transform, mesh, **options)
  history = []
  for _ in range(steps):
    state, metrics = step(state, mesh_lib.put_batch(data, mesh))
    history.append(jax.device_get(metrics))
  return state, history


def test_one_step_by_hand():
  data = batch(2, 4)
  state, (metrics,) = run(linear.objective(), data, 1)
  x = np.asarray(architectures.normalize(data["image"])).reshape(-1, 3)
  residual = x.sum(1) - data["label"].ravel()
  gradient = 2 * (residual[:, None] * x).mean(0)
  # Float32 sums over 32 values.
  np.testing.assert_allclose(metrics["sums"]["loss"], np.mean(residual**2), rtol=1e-5)
  np.testing.assert_allclose(metrics["sums"]["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
  np.testing.assert_allclose(state.params["head"]["kernel"], 1 - 0.1 * gradient, rtol=1e-5)
  assert int(state.step) == 1


def test_images_are_normalised_with_imagenets_mean_and_deviation():
  image = jnp.array([[124, 116, 104], [255, 255, 255]], jnp.uint8)
  expected = [
    [(124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (104 - 103.53) / 57.375],
    [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375],
  ]
  np.testing.assert_allclose(architectures.normalize(image), expected, rtol=1e-5)


def test_metric_sums_start_anew_after_each_log_step():
  _, history = run(linear.objective(), batch(2, 4), 3, rate=0.0, log_every_steps=2)
  one = history[0]["sums"]["loss"]
  np.testing.assert_allclose([h["sums"]["loss"] for h in history], [one, 2 * one, one], rtol=1e-6)


def test_accumulation_averages_gradients_and_passes_statistics_on():
  plain, _ = run(linear.objective(), batch(8, 4), 2, devices=2)
  accumulated, _ = run(linear.objective(), batch(8, 4), 2, devices=2, grad_accumulation=4)
  np.testing.assert_allclose(
    accumulated.params["head"]["kernel"], plain.params["head"]["kernel"], rtol=1e-5
  )
  assert int(accumulated.stats["seen"]) == int(plain.stats["seen"]) == 16


def test_steps_that_are_not_finite_change_nothing_and_the_limit_is_remembered():
  # A rate this large overflows float32 within a few steps, and then every loss does.
  options = dict(rate=1e12, max_nonfinite_steps=2, log_every_steps=100)
  _, history = run(linear.objective(), batch(2, 4), 8, **options)
  skipped = [int(h["sums"]["skipped_steps"]) for h in history]
  first = skipped.index(1) + 1  # number of the first step that was skipped
  assert first > 1 and skipped[first - 1 :] == list(range(1, 8 - first + 2))
  assert [int(h["diverged_step"]) for h in history] == [0] * (first + 1) + [first + 2] * (7 - first)
  before, _ = run(linear.objective(), batch(2, 4), first - 1, **options)
  after, after_history = run(linear.objective(), batch(2, 4), first + 1, **options)
  for name in ("params", "stats", "opt_state"):
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
  assert int(after.step) == first + 1
  assert np.isfinite(after_history[-1]["sums"]["loss"])


def test_finite_steps_between_set_the_count_back():
  data = batch(2, 4)
  bad = {**data, "label": np.full((2, 4, 4), np.inf, np.float32)}
  good = {**data, "label": data["label"].astype(np.float32)}
  mesh, transform = mesh_lib.data_mesh(jax.devices()[:1]), optax.sgd(0.1)
  state = train_step.init_state(linear.objective(), transform, 0, mesh)
  step = train_step.make_train_step(
    linear.objective(), transform, mesh, seed=0, log_every_steps=9, max_nonfinite_steps=2
  )
  counts = []
  for inputs in (bad, bad, good, bad, bad, bad):
    state, _ = step(state, mesh_lib.put_batch(inputs, mesh))
    counts.append(int(state.skipped_in_a_row))
  assert counts == [1, 2, 0, 1, 2, 3]
  assert int(state.diverged_step) == 6


def test_one_and_four_devices_agree_and_statistics_are_of_the_global_batch():
  objective = deeplabv3plus.SPEC.objective(SMALL, recipes.pixel_loss())
  one, history_one = run(objective, batch(), 2, devices=1, rate=1e-3, log_every_steps=1)
  four, history_four = run(objective, batch(), 2, devices=4, rate=1e-3, log_every_steps=1)
  for a, b in zip(history_one, history_four, strict=True):
    # Sums over the batch in another order, float32.
    np.testing.assert_allclose(a["sums"]["loss"], b["sums"]["loss"], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.stats, four.stats
  )


class Normalised(nnx.Module):
  """One batch norm of the image, whose statistics are easily counted."""

  def __init__(self, rngs):
    self.norm = layers.BatchNorm(3, dtype=jnp.float32, rngs=rngs)

  def __call__(self, image, *, train, rngs):
    return self.norm(image, train=train)


def batch_norm_objective():
  model = functional.functional(Normalised)

  def loss(params, stats, batch, rng, step):
    del rng, step
    out, stats = model.apply(params, stats, batch["image"], train=True)
    value = jnp.mean(out**2)
    return value, (stats, {"loss": value})

  return dataclasses.replace(linear.objective(), init=model.init, loss=loss)


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (4, 1), (1, 2), (4, 2)])
def test_running_variance_is_unbiased_over_the_global_batch(devices, parts):
  """Over each slice of it in turn, with accumulation. Eight images of one pixel: n is small."""
  data = batch(8, 1)
  state, _ = run(
    batch_norm_objective(), data, 1, devices=devices, rate=0.0, grad_accumulation=parts
  )
  x = np.asarray(architectures.normalize(data["image"]), np.float64).reshape(8, 3)
  variance = np.ones(3)
  for part in range(parts):  # Slice i holds every parts-th image.
    variance = 0.9 * variance + 0.1 * x[part::parts].var(0, ddof=1)
  np.testing.assert_allclose(state.stats["norm"]["var"], variance, rtol=1e-5)  # float32 sums of 8


def test_initial_state_does_not_depend_on_the_mesh():
  objective = deeplabv3plus.SPEC.objective(SMALL, recipes.pixel_loss())
  states = [
    train_step.init_state(objective, optax.sgd(0.1), 5, mesh_lib.data_mesh(jax.devices()[:devices]))
    for devices in (1, 4)
  ]
  jax.tree.map(np.testing.assert_array_equal, *states)
  abstract = train_step.abstract_state(
    objective, optax.sgd(0.1), mesh_lib.data_mesh(jax.devices()[:1])
  )
  jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), abstract, states[0])


@pytest.mark.parametrize(
  ("size", "parts", "nearest"), [(10, 4, "8 or 12"), (3, 4, "4"), (0, 2, "2")]
)
def test_batch_size_that_does_not_divide_is_named(size, parts, nearest):
  with pytest.raises(
    ValueError, match=rf"config\.batch_size is {size}.*{parts} equal parts.*{nearest}"
  ):
    mesh_lib.check_batch_size("config.batch_size", size, parts, "4 devices")
  mesh_lib.check_batch_size("config.batch_size", 8, 4, "4 devices")
