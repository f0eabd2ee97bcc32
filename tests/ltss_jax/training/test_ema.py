"""Averages of the weights: what they are, and what leaves them alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ltss_jax import checkpoint, mesh as mesh_lib
from ltss_jax.training import train_step
from tests.ltss_jax.training import linear

DECAY = 0.75
OPTIMIZER = optax.sgd(0.1)


def with_constants(frozen=()):
  """The linear model with a parameter and a statistic that never change."""
  model = linear.objective()

  def init(key):
    params, stats = model.init(key)
    unused = jax.random.normal(key, (50,))
    return params | {"unused": unused}, stats | {"constant": unused}

  def loss(params, stats, batch, rng, step):
    value, (new_stats, terms) = model.loss(params, stats, batch, rng, step)
    return value, (new_stats | {"constant": stats["constant"]}, terms)

  return dataclasses.replace(model, init=init, loss=loss, frozen=frozen)


def batch(label=1.0):
  image = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
  return {"image": image, "label": np.full((4, 2, 2), label, np.float32)}


def states(objective, batches, ema_decay=DECAY, devices=1):
  """The states before the first batch and after each, on the host."""
  mesh = mesh_lib.data_mesh(jax.devices()[:devices])
  state = train_step.init_state(objective, OPTIMIZER, 0, mesh, ema_decay)
  step = train_step.make_train_step(
    *(objective, OPTIMIZER, mesh),
    **dict(seed=0, log_every_steps=9, max_nonfinite_steps=9, ema_decay=ema_decay),
  )
  history = [jax.device_get(state)]
  for inputs in batches:
    state, _ = step(state, mesh_lib.put_batch(inputs, mesh))
    history.append(jax.device_get(state))
  return history


@pytest.mark.parametrize("devices", [1, 4])
def test_the_average_moves_a_share_of_the_way_after_every_update(devices):
  history = states(with_constants(), [batch()] * 3, devices=devices)
  expected = history[0].params["head"]["kernel"]
  for state in history:
    expected = DECAY * expected + (1 - DECAY) * state.params["head"]["kernel"]
    np.testing.assert_allclose(state.ema["params"]["head"]["kernel"], expected, rtol=1e-6)
  assert np.abs(expected - history[-1].params["head"]["kernel"]).max() > 1e-3
  seen = [state.ema["stats"]["seen"] for state in history]
  assert seen == [0, 1, 2.75, 5.0625]  # of 0, 4, 8 and 12 images


def test_what_stays_the_same_stays_so_bit_by_bit():
  """In its other form, d e + (1 - d) x, an average of equal numbers drifts."""
  first, *_, last = states(with_constants(), [batch()] * 20, ema_decay=0.999)
  for ema in (last.ema["params"]["unused"], last.ema["stats"]["constant"]):
    np.testing.assert_array_equal(ema, first.params["unused"])


def test_a_step_that_is_not_finite_leaves_the_average_alone():
  _, before, after, _ = states(with_constants(), [batch(), batch(np.inf), batch()])
  assert int(after.skipped_in_a_row) == 1
  jax.tree.map(np.testing.assert_array_equal, after.ema, before.ema)


def test_training_does_not_depend_on_the_average():
  with_it, without = (states(with_constants(), [batch()] * 3, d)[-1] for d in (DECAY, 0.0))
  assert without.ema == {} and with_it.ema
  jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(with_it, ema={}), without)


def test_the_first_average_is_a_copy():
  """Of the same buffers the step, which takes both over, could take one only."""
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  objective = with_constants()
  state = train_step.init_state(objective, OPTIMIZER, 0, mesh, DECAY)
  weights = state.params, state.stats
  for start in (weights, jax.device_get(weights)):  # on the mesh or, as loaded ones, on the host
    state = train_step.start_state(objective, OPTIMIZER, *start, mesh, DECAY)
    leaves = jax.tree.leaves((state.params, state.stats, state.ema))
    assert len(leaves) == 8 == len({leaf.unsafe_buffer_pointer() for leaf in leaves})
    expected = {"params": state.params, "stats": state.stats}
    jax.tree.map(np.testing.assert_array_equal, state.ema, expected)


def test_inference_takes_the_averages_and_what_has_none():
  *_, plain = states(with_constants(), [batch()], 0.0)
  assert plain.inference_weights == (plain.params, plain.stats)
  *_, state = states(with_constants(frozen=("unused",)), [batch()])
  assert set(state.ema["params"]) == {"head"}
  params, stats = state.inference_weights
  assert params["head"] == state.ema["params"]["head"] and stats == state.ema["stats"]
  np.testing.assert_array_equal(params["unused"], state.params["unused"])
  assert np.any(params["head"]["kernel"] != state.params["head"]["kernel"])


def test_checkpoints_hold_weights_and_averages(tmp_path):
  """Both come back; a run that kept no averages has none to give."""
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  *_, state = states(with_constants(), [batch()] * 2)
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(2, jax.device_put(state, mesh_lib.replicated(mesh)), {"n": 2})
    saved.wait()
    abstract = train_step.abstract_state(with_constants(), OPTIMIZER, mesh, DECAY)
    jax.tree.map(np.testing.assert_array_equal, saved.restore(abstract)[0], state)
    plain = train_step.abstract_state(with_constants(), OPTIMIZER, mesh)
    with pytest.raises(checkpoint.CheckpointError, match=r"- ema/params/head/kernel: not asked"):
      saved.restore(plain)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EarlierState:
  """A train state of before there were averages."""

  step: jax.Array
  params: dict
  stats: dict
  opt_state: tuple
  metric_sums: dict
  skipped_in_a_row: jax.Array
  diverged_step: jax.Array


@pytest.mark.parametrize("stats", [{"seen": jnp.float32(8)}, {}])
def test_checkpoints_of_before_there_were_averages_are_read(tmp_path, stats):
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  *_, state = states(linear.objective(), [batch()], 0.0)
  state = dataclasses.replace(state, stats=stats)
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(EarlierState)}
  earlier = jax.device_put(EarlierState(**fields), mesh_lib.replicated(mesh))
  abstract = train_step.abstract_state(linear.objective(), OPTIMIZER, mesh)
  if not stats:  # as of a model without any
    abstract = dataclasses.replace(abstract, stats={})
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, earlier, {"n": 1})
    saved.wait()
    found, _ = saved.restore(abstract, {"n": 0})
    jax.tree.map(np.testing.assert_array_equal, found, state)
    averaging = train_step.abstract_state(linear.objective(), OPTIMIZER, mesh, DECAY)
    with pytest.raises(checkpoint.CheckpointError, match=r"\+ ema/params/head/kernel: not saved"):
      saved.restore(averaging)
