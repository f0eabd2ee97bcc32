"""How the loop takes its steps; tests/main has whole trainings."""

import jax
import numpy as np
import optax
import pytest

from configs import common
from ltss_jax import mesh as mesh_lib
from ltss_jax.training import loop, run as run_lib, train_step
from tests.ltss_jax.training import linear


@pytest.fixture
def start(tmp_path):
  """Returns a function that takes three steps, after which there are no more batches.

  What the loop works with beside them is not reached.
  """
  config = common.get_config()
  config.train.update(steps=10, log_every_steps=10)
  config.update_from_flattened_dict({"eval.every_steps": 10, "checkpoint.every_steps": 10})
  mesh, parts = mesh_lib.data_mesh(), (linear.objective(), optax.sgd(1e-3))
  rows = {"image": np.zeros((4, 2, 2, 3), np.uint8), "label": np.zeros((4, 2, 2), np.uint8)}
  names = ("saved", "evaluation", "writer", "schedule")
  run = run_lib.Run(
    config=config,
    workdir=tmp_path,
    mesh=mesh,
    step_function=train_step.make_train_step(
      *parts, mesh, seed=0, log_every_steps=10, max_nonfinite_steps=0
    ),
    batches=iter([rows] * 3),
    pictures=lambda step, state: False,
    **dict.fromkeys(names),
  )

  def start(profile_steps=()):
    config.train.profile_steps = profile_steps
    loop._loop(run, train_step.init_state(*parts, 0, mesh))

  return start


def test_a_step_that_moves_arrays_unasked_is_an_error(start, monkeypatch):
  """The other direction, reading results, is no transfer on CPUs."""
  put_batch = mesh_lib.put_batch

  def forgotten(batch, mesh):  # The compiled step takes the host's arrays as they are.
    return put_batch(batch, mesh) | {"image": batch["image"]}

  monkeypatch.setattr(mesh_lib, "put_batch", forgotten)
  with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
    start()


def test_steps_carry_their_number_into_the_trace(start, tmp_path, traced_steps):
  with pytest.raises(StopIteration):  # So the same steps pass where the batch is placed.
    start(profile_steps=(2, 3))
  assert traced_steps(tmp_path) == [[2, 3]]
