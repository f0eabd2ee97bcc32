"""Optimizers against torch's update rules written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ltss_jax import optimizer
from tests import recipes

PARAMS = {
  "backbone": {"conv": {"kernel": jnp.array([1.0, -2.0])}, "norm": {"scale": jnp.array([3.0])}},
  "head": {"kernel": jnp.array([4.0])},
}


def decays(path):
  return "/norm/" not in path


def config(**fields):
  base = dict(name="sgd", learning_rate=0.1, steps=4, weight_decay=0.01)
  base |= dict(backbone_multiplier=1.0, clip_norm=0.0)
  return recipes.optimizer(**base | fields)


def run(recipe, gradients):
  transform = optimizer.make_optimizer(recipe, decays)
  params, state = PARAMS, transform.init(PARAMS)
  for scale in gradients:
    grads = jax.tree.map(lambda p, s=scale: jnp.full_like(p, s), params)
    updates, state = transform.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_poly_schedule_ends_at_zero():
  rate = optimizer.learning_rate_schedule(config(steps=10))
  np.testing.assert_allclose(
    [rate(s) for s in (0, 5, 10)], [0.1, 0.1 * 0.5**0.9, 0.0], rtol=1e-6, atol=1e-9
  )


def test_poly_schedule_of_power_0_is_constant_and_does_not_depend_on_the_steps():
  for steps in (10, 20):
    rate = optimizer.learning_rate_schedule(config(steps=steps, poly_power=0.0, warmup_steps=2))
    expected = np.float32([0.05, 0.075, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(np.float32([rate(s) for s in (0, 1, 2, 9, 10)]), expected)


def test_warmup_rises_linearly_to_the_poly_schedule():
  rate = optimizer.learning_rate_schedule(config(steps=100, warmup_steps=4))
  poly = optimizer.learning_rate_schedule(config(steps=100))
  np.testing.assert_allclose(
    [rate(s) / poly(s) for s in (0, 1, 2, 3, 4, 50)], [0.25, 0.4375, 0.625, 0.8125, 1, 1], rtol=1e-6
  )
  one = optimizer.learning_rate_schedule(config(steps=100, warmup_steps=1))
  assert one(0) == pytest.approx(0.1)


def test_warmup_is_the_releases():
  """Its MHP-v2-LT recipe for DeepLabV3+: from 1/1000 over 1,000 updates, at 0.01 of 52,000."""
  rate = optimizer.learning_rate_schedule(
    config(learning_rate=0.01, steps=52_000, warmup_steps=1000)
  )
  for step, factor in ((0, 0.001), (1, 0.001999), (500, 0.5005), (999, 0.999001), (1000, 1)):
    expected = 0.01 * factor * (1 - step / 52_000) ** 0.9
    assert rate(step) == pytest.approx(expected, rel=1e-6)  # float32


def test_sgd_is_torchs_with_groups():
  result = run(config(backbone_multiplier=0.5), [1.0, 2.0])

  def reference(p, rate_factor, decay):
    momentum = 0.0
    for step, g in enumerate([1.0, 2.0]):
      momentum = 0.9 * momentum + (g + decay * p)
      p = p - rate_factor * 0.1 * (1 - step / 4) ** 0.9 * momentum
    return p

  np.testing.assert_allclose(
    result["backbone"]["conv"]["kernel"], reference(np.array([1.0, -2.0]), 0.5, 0.01), rtol=1e-6
  )
  np.testing.assert_allclose(result["backbone"]["norm"]["scale"], reference(3.0, 0.5, 0), rtol=1e-6)
  np.testing.assert_allclose(result["head"]["kernel"], reference(4.0, 1.0, 0.01), rtol=1e-6)


def test_adamw_is_torchs_with_decoupled_decay():
  result = run(config(name="adamw", weight_decay=0.5), [1.0, 3.0])
  p, m, v = 4.0, 0.0, 0.0
  for step, g in enumerate([1.0, 3.0]):
    rate = 0.1 * (1 - step / 4) ** 0.9
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    p -= rate * 0.5 * p
    p -= rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
  # Float32 bias corrections 1 - 0.999^t lose three digits.
  np.testing.assert_allclose(result["head"]["kernel"], p, rtol=1e-4)


def test_clipping_is_by_the_norm_of_the_whole_model():
  recipe = config(clip_norm=1.0, weight_decay=0.0, momentum=0.0)
  result = run(recipe, [7.0])  # four values of 7: norm 14
  np.testing.assert_allclose(result["head"]["kernel"], 4.0 - 0.1 * 7 / 14, rtol=1e-6)


def test_unknown_name_is_an_error():
  with pytest.raises(ValueError, match="'adam'; known are 'sgd' and 'adamw'"):
    optimizer.make_optimizer(config(name="adam"), decays)
