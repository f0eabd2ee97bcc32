"""Small checkpoints, and what can happen to the files of one."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax import mesh
from ltss_jax.training.state import TrainState


def _make_state(step: int) -> TrainState:
  kernel = jnp.arange(6.0).reshape(2, 3) + step
  noise = jax.random.normal(jax.random.key(step), (40, 50))
  state = TrainState(
    step=jnp.int32(step),
    params={"blocks": {0: {"kernel": kernel}}, "bias": jnp.ones(3), "noise": noise},
    stats={"mean": jnp.zeros(3)},
    opt_state=({"mu": noise.astype(jnp.bfloat16)},),
    ema={},
    metric_sums={"loss": jnp.float32(1.5)},
    skipped_in_a_row=jnp.int32(0),
    diverged_step=jnp.int32(0),
  )
  return jax.device_put(state, mesh.replicated(mesh.data_mesh(jax.devices()[:1])))


@pytest.fixture
def make_state():
  """Function of a step: a train state that differs from that of any other step."""
  return _make_state


def _data_state(step: int) -> dict[str, int]:
  return {"next_batch": step, "seed": 3, "batch_size": 16}


@pytest.fixture
def data_state():
  """Function of a step: state of a data iterator."""
  return _data_state


@pytest.fixture
def damage_one_by_one(damaged):
  """Function of a folder: yields 25 times with a byte changed and 5 times with a file cut off.

  It yields what it has done, to one of the files, half of the time a large one; the next file is
  damaged after that one is as it was.
  """

  def one_by_one(folder: pathlib.Path):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    sizes = np.array([path.stat().st_size for path in files])
    rng = np.random.default_rng(0)
    for i in range(30):
      path = files[rng.choice(len(files), p=sizes / sizes.sum() if i % 2 else None)]
      data = path.read_bytes()
      path.write_bytes(list(damaged(data))[i])
      yield f"{path}, damage {i}"
      path.write_bytes(data)

  return one_by_one
