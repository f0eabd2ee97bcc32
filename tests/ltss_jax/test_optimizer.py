"""Optimizers against torch's update rules written out in numpy; rates against the publications'."""

import dataclasses

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


def layers_above(path):
  """Three blocks deep, for the parameter of one."""
  return 3 if path == "backbone/conv/kernel" else 0


def run(recipe, gradients):
  transform = optimizer.make_optimizer(recipe, decays, layers_above)
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


def rates(recipe, steps):
  """Learning rates outside the backbone and below it, [2, steps]."""
  schedules = optimizer.learning_rate_schedule(recipe), optimizer.backbone_schedule(recipe)
  return np.array([[schedule(jnp.int32(step)) for step in steps] for schedule in schedules])


def two_stage(**fields):
  return config(
    **dict(schedule="two_stage", steps=10, warmup_steps=2, backbone_warmup_steps=3) | fields
  )


def test_two_stages_by_hand():
  """Warm-ups of 2 and 3 of 10 updates, then straight lines to 0 over the 8 and 5 that are left."""
  found = rates(two_stage(learning_rate=1.0, poly_power=1.0), range(11))
  outside = [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
  backbone = [0, 0, 0, 1 / 3, 2 / 3, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0]
  np.testing.assert_allclose(found, [outside, backbone], rtol=1e-6, atol=1e-7)  # float32


def published_rate(step, steps, begin, length):
  """As Kerssies et al. have it, for a group whose warm-up of some length begins at a step."""
  if step < begin:
    return 0.0
  if step < begin + length:
    return (step - begin) / length
  return (1 - (step - begin - length) / (steps - begin - length)) ** 0.9


@pytest.mark.parametrize(("w1", "w2"), [(500, 1000), (2000, 3000), (0, 1000), (500, 0), (0, 0)])
def test_two_stages_are_the_publications(w1, w2):
  steps = (0, 1, 250, 500, 501, 1250, 1500, 5000, 20_000, 39_152)
  recipe = two_stage(learning_rate=1e-4, steps=39_153, warmup_steps=w1, backbone_warmup_steps=w2)
  expected = [
    [1e-4 * published_rate(step, 39_153, begin, length) for step in steps]
    for begin, length in ((0, w1), (w1, w2))
  ]
  # 1 - step / steps of the last step keeps three digits in float32.
  np.testing.assert_allclose(rates(recipe, steps), expected, rtol=1e-5, atol=1e-10)


def test_two_stages_of_power_0_do_not_depend_on_the_steps():
  short, long = (rates(two_stage(steps=steps, poly_power=0.0), range(11)) for steps in (10, 20))
  np.testing.assert_array_equal(short, long)
  np.testing.assert_array_equal(short[:, 5:], np.float32(0.1))


def test_the_schedule_poly_is_one_for_all():
  outside, backbone = rates(config(steps=10, warmup_steps=2), range(11))
  np.testing.assert_array_equal(outside, backbone)


def test_updates_have_the_rate_of_their_group_and_layer():
  """Of step 4: 6/8 of the rate outside, 2/3 below the backbone, a half of that, and 0.8^3."""
  recipe = two_stage(poly_power=1.0, weight_decay=0.0, momentum=0.0, layer_decay=0.8)
  recipe = dataclasses.replace(recipe, backbone_multiplier=0.5)
  transform = optimizer.make_optimizer(recipe, decays, layers_above)
  state = transform.init(PARAMS)
  for _ in range(5):
    updates, state = transform.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
  backbone = -0.1 * 2 / 3 * 0.5
  np.testing.assert_allclose(updates["head"]["kernel"], -0.1 * 6 / 8, rtol=1e-6)
  np.testing.assert_allclose(updates["backbone"]["norm"]["scale"], backbone, rtol=1e-6)
  np.testing.assert_allclose(updates["backbone"]["conv"]["kernel"], backbone * 0.8**3, rtol=1e-6)


def test_the_state_is_that_of_runs_which_are_to_go_on():
  """Names of its leaves in checkpoints, written down when the first runs were saved."""

  def leaves(**fields):
    transform = optimizer.make_optimizer(config(**fields), decays, layers_above)
    state = jax.eval_shape(transform.init, {"head": {"kernel": jnp.zeros(1)}})
    paths = jax.tree_util.tree_leaves_with_path(state)
    return len(state), [jax.tree_util.keystr(path) for path, _ in paths]

  moments = ["[{}].count", "[{}].mu['head']['kernel']", "[{}].nu['head']['kernel']"]
  for schedule in optimizer.SCHEDULES:
    found = leaves(name="adamw", clip_norm=0.01, schedule=schedule)
    assert found == (5, [name.format(1) for name in moments] + ["[4].count"])
    found = leaves(name="adamw", schedule=schedule)
    assert found == (4, [name.format(0) for name in moments] + ["[3].count"])
    found = leaves(name="sgd", schedule=schedule)
    assert found == (4, ["[1].trace['head']['kernel']", "[3].count"])


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


def test_unknown_names_are_errors():
  with pytest.raises(ValueError, match="'adam'; known are 'sgd' and 'adamw'"):
    optimizer.make_optimizer(config(name="adam"), decays, layers_above)
  with pytest.raises(ValueError, match=r"schedule is 'cosine'; known are \('poly', 'two_stage'\)"):
    optimizer.make_optimizer(config(schedule="cosine"), decays, layers_above)
