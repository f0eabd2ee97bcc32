"""Small checkpoints, and what can happen to the files of one."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax import mesh, types


def _make_state(step: int) -> types.TrainState:
  kernel = jnp.arange(6.0).reshape(2, 3) + step
  noise = jax.random.normal(jax.random.key(step), (40, 50))
  state = types.TrainState(
    step=jnp.int32(step),
    params={"blocks": {0: {"kernel": kernel}}, "bias": jnp.ones(3), "noise": noise},
    stats={"mean": jnp.zeros(3)},
    opt_state=({"mu": noise.astype(jnp.bfloat16)},),
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


class Damages:
  """Damages one file of a folder at a time, at places that follow from a seed."""

  def __init__(self, folder: pathlib.Path, seed: int):
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    self._files = {path: path.read_bytes() for path in sorted(files)}
    self._rng = np.random.default_rng(seed)

  def flipped_bytes(self, count: int):
    """Yields `count` times, each time with another byte changed; half of them in large files."""
    sizes = np.array([len(data) for data in self._files.values()])
    paths = list(self._files)
    for i in range(count):
      share = sizes / sizes.sum() if i % 2 else None
      path = paths[self._rng.choice(len(paths), p=share)]
      data = bytearray(self._files[path])
      place = self._rng.integers(len(data))
      data[place] ^= self._rng.integers(1, 256)
      yield from self._with(path, bytes(data), f"byte {place} of {path}")

  def truncated(self, count: int):
    """Yields `count` times, each time with a file cut off."""
    paths = list(self._files)
    for _ in range(count):
      path = paths[self._rng.integers(len(paths))]
      length = self._rng.integers(len(self._files[path]))
      yield from self._with(path, self._files[path][:length], f"{path} cut to {length} bytes")

  def _with(self, path: pathlib.Path, data: bytes, what: str):
    path.write_bytes(data)
    yield what
    path.write_bytes(self._files[path])


@pytest.fixture
def damages():
  """`Damages`, to be made of a folder and a seed."""
  return Damages
