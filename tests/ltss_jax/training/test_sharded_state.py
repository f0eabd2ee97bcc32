"""The state divided over devices: by which rule, that training does not notice, and restoring."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ltss_jax import checkpoint, mesh as mesh_lib, optimizer
from ltss_jax.training import train_step
from ltss_jax.training.state import shardings
from tests import recipes
from tests.ltss_jax.training import linear

FSDP = (1, 2, 4)  # of four devices
EMA_DECAY = 0.9


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((3, 8), (None, "fsdp")),
    ((8, 3), ("fsdp",)),
    ((4, 4), ("fsdp",)),  # the first of equally large ones
    ((9, 6, 4), (None, None, "fsdp")),  # the largest that divides, not the largest
    ((6, 10), ()),
    ((0,), ()),
    ((), ()),
  ],
)
def test_the_largest_axis_that_divides_is_split(shape, spec):
  mesh = mesh_lib.data_mesh(fsdp=4)
  assert mesh_lib.state_sharding(shape, mesh).spec == PartitionSpec(*spec)
  assert mesh_lib.state_sharding(shape, mesh_lib.data_mesh()).spec == PartitionSpec()


@pytest.mark.parametrize("fsdp", [3, 8])
def test_a_size_that_does_not_divide_the_devices_is_refused(fsdp):
  message = rf"config\.mesh\.fsdp is {fsdp}, .* devices, 4; values that do: 1, 2, 4"
  with pytest.raises(ValueError, match=message):
    mesh_lib.data_mesh(fsdp=fsdp)


def objective():
  """Two layers: arrays that divide along either axis, or not at all, and statistics."""

  def init(key):
    first, second = jax.random.split(key)
    backbone = {"kernel": jax.random.normal(first, (3, 16)), "bias": jnp.zeros(16)}
    head = {"kernel": jax.random.normal(second, (16, 6)), "scale": jnp.ones(3)}
    return {"backbone": backbone, "head": head}, {"mean": jnp.zeros(8)}

  def loss(params, stats, batch, rng, step):
    del rng, step
    backbone, head = params["backbone"], params["head"]
    x = (batch["image"] * head["scale"]) @ backbone["kernel"] + backbone["bias"]
    logits = jnp.tanh(x) @ head["kernel"]
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return value, ({"mean": 0.9 * stats["mean"] + 0.1 * x.mean()}, {"loss": value})

  return dataclasses.replace(linear.objective(), init=init, loss=loss)


# The gradient's norm is about 1.7, so that every step clips.
RECIPE = recipes.optimizer(learning_rate=1e-2, steps=20, clip_norm=0.1)
TRANSFORM = optimizer.make_optimizer(RECIPE, lambda path: True, lambda path: 0)


def batch():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
  return {"image": image, "label": rng.integers(0, 6, (8, 4, 4), dtype=np.int32)}


def start(fsdp):
  """(mesh, fresh state, step)."""
  mesh = mesh_lib.data_mesh(fsdp=fsdp)
  options = dict(seed=0, log_every_steps=1, max_nonfinite_steps=0, ema_decay=EMA_DECAY)
  state = train_step.init_state(objective(), TRANSFORM, 0, mesh, EMA_DECAY)
  return mesh, state, train_step.make_train_step(objective(), TRANSFORM, mesh, **options)


@pytest.fixture(scope="module")
def trained():
  """{fsdp: (mesh, step, fresh state on the host, state after three steps, its metrics)}."""
  results = {}
  for fsdp in FSDP:
    mesh, state, step = start(fsdp)
    fresh = jax.device_get(state)
    for _ in range(3):
      state, metrics = step(state, mesh_lib.put_batch(batch(), mesh))
    results[fsdp] = mesh, step, fresh, state, jax.device_get(metrics["sums"])
  return results


def test_training_does_not_depend_on_how_the_state_is_divided(trained):
  _, _, first, expected, sums = trained[1]
  expected = jax.device_get(expected)
  for _, _, fresh, state, metrics in (trained[2], trained[4]):
    jax.tree.map(np.testing.assert_array_equal, fresh, first)
    # The same sums in another order, float32; Adam divides gradients by their size.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, jax.device_get(state), expected)
    np.testing.assert_allclose(metrics["grad_norm"], sums["grad_norm"], rtol=1e-5)
    assert sums["grad_norm"] > RECIPE.clip_norm


def test_each_device_holds_its_part_of_all_but_statistics(trained):
  def bytes_of(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

  # [3, 16], [16] and [16, 6] are divided, [3] and the count of updates are not.
  for fsdp, (mesh, _, _, state, _) in trained.items():
    divided, whole = 4 * (48 + 16 + 96) // fsdp, 4 * 3
    assert bytes_of(state.params) == bytes_of(state.ema["params"]) == divided + whole
    # Two moments, and the counts of Adam and of the schedule.
    assert bytes_of(state.opt_state) == 2 * (divided + whole) + 2 * 4
    assert bytes_of(state.stats) == bytes_of(state.ema["stats"]) == 4 * 8
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, placed, shardings(state, mesh)))


def test_a_step_gathers_parameters_and_sums_gradients_and_moves_nothing_else(trained):
  for fsdp, (mesh, step, _, state, _) in trained.items():
    data = mesh_lib.put_batch(batch(), mesh)
    program = step.lower(state, data).compile().as_text()
    assert ("all-gather" in program) == (fsdp > 1)
    assert "all-to-all" not in program and "collective-permute" not in program
    assert step._cache_size() == 1


def test_evaluation_gets_whole_weights_on_its_own_devices(trained):
  local = mesh_lib.data_mesh(jax.local_devices())
  for _, _, _, state, _ in trained.values():
    weights = mesh_lib.local_replica(state.inference_weights, local)
    jax.tree.map(np.testing.assert_array_equal, weights, jax.device_get(state.inference_weights))
    assert all(leaf.sharding == mesh_lib.replicated(local) for leaf in jax.tree.leaves(weights))


def test_checkpoints_restore_under_every_other_mesh(trained, tmp_path):
  """Bit for bit, from one to the next, with the digests that each wrote checked under the next."""
  _, _, _, state, _ = trained[2]
  expected = jax.device_get(state)
  for number, fsdp in enumerate((1, 4, 2, 4, 1, 2)):
    with checkpoint.Checkpoints(tmp_path / str(number)) as saved:
      saved.save(3, state, {"position": 0})
      saved.wait()
      mesh = mesh_lib.data_mesh(fsdp=fsdp)
      abstract = train_step.abstract_state(objective(), TRANSFORM, mesh, EMA_DECAY)
      state, _ = saved.restore(abstract, {"position": 0})
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, placed, shardings(state, mesh)))
  mesh, step, _, _, _ = trained[2]
  step(state, mesh_lib.put_batch(batch(), mesh))
  assert step._cache_size() == 1
