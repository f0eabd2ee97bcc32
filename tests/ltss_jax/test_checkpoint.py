"""Checkpoints on a real disk: round trip, what is kept, what is left after a failure."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax import checkpoint, mesh, types

REPOSITORY = pathlib.Path(__file__).parents[2]


def make_state(step):
  replicated = mesh.replicated(mesh.data_mesh(jax.devices()[:1]))
  params = {"blocks": {0: {"kernel": jnp.arange(6.0).reshape(2, 3) + step}}, "bias": jnp.ones(3)}
  state = types.TrainState(
    jnp.int32(step),
    params,
    {"mean": jnp.zeros(3)},
    (),
    {"loss": jnp.float32(1.5)},
    jnp.int32(0),
    jnp.int32(0),
  )
  return jax.device_put(state, replicated)


def data_state(step):
  return {"next_batch": step, "seed": 3, "batch_size": 16}


def test_round_trip_is_exact_and_opens_again(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
    assert saved.steps == []
    saved.save(7, make_state(7), data_state(7))
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
    assert saved.steps == [7]
    state, data = saved.restore(make_state(0), data_state(0))
  assert data == data_state(7)
  jax.tree.map(np.testing.assert_array_equal, state, make_state(7))


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with checkpoint.Checkpoints("runs/demo/checkpoints") as saved:
    saved.save(1, make_state(1), data_state(1))
  assert (tmp_path / "runs/demo/checkpoints/1").is_dir()
  with checkpoint.Checkpoints("runs/demo/checkpoints") as saved:
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_keeps_the_last_and_the_best(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=2) as saved:
    for step, miou in [(1, 30.0), (2, 50.0), (3, None), (4, 40.0), (5, None)]:
      saved.save(step, make_state(step), data_state(step), miou)
    saved.wait()
    assert saved.steps == [2, 4, 5]
    assert saved.best_step == 2
    assert int(saved.restore(make_state(0), step=4)[0].step) == 4
    assert int(saved.restore(make_state(0))[0].step) == 5


def test_saving_a_step_twice_keeps_the_first(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), data_state(1))
    saved.save(1, make_state(9), data_state(9))
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_missing_step_and_other_shapes_are_named(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint.*none"):
      saved.restore(make_state(0))
    saved.save(3, make_state(3), data_state(3))
    saved.wait()
    with pytest.raises(checkpoint.CheckpointError, match=r"of step 4; there are: \[3\]"):
      saved.restore(make_state(0), step=4)
    other = make_state(0)
    other.params["blocks"][0]["kernel"] = jnp.ones((2, 4))
    with pytest.raises(checkpoint.CheckpointError, match="could not read the checkpoint of step 3"):
      saved.restore(other)


def test_a_checkpoint_without_its_score_is_replaced_by_one_with_it(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), data_state(1))
    assert not saved.is_scored(1) and saved.best_step is None
    saved.save(1, make_state(1), data_state(1), 30.0)
    saved.wait()
    assert saved.is_scored(1) and saved.best_step == 1
    saved.save(1, make_state(9), data_state(9), 40.0)  # it has its score
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_a_reader_leaves_a_save_in_progress_alone(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), data_state(1))
  in_progress = tmp_path / "2.orbax-checkpoint-tmp"
  in_progress.mkdir()
  with checkpoint.Checkpoints(tmp_path, read_only=True) as reader:
    assert reader.steps == [1]
    raw = reader.read_raw(1, "params", "stats")
  assert in_progress.exists()
  assert set(raw) == {"params", "stats"}
  np.testing.assert_array_equal(raw["params"]["blocks"][0]["kernel"][0], [1, 2, 3])


FULL_DISK = """
import json, resource, signal, sys
import jax, jax.numpy as jnp
from ltss_jax import checkpoint, mesh
replicated = mesh.replicated(mesh.data_mesh())
make = lambda size: jax.device_put({"w": jax.random.normal(jax.random.key(0), (size,))}, replicated)
with checkpoint.Checkpoints(sys.argv[1], keep=3) as saved:
  saved.save(1, make(1000), {"next_batch": 1})
  saved.wait()
  # From here on no file may grow beyond 64 KiB: writing fails as it does on a full disk.
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
  try:
    saved.save(2, make(1000_000), {"next_batch": 2})
    saved.wait()
  except checkpoint.CheckpointError as error:
    print(json.dumps(str(error)))
    sys.exit(3)
"""


def test_last_good_checkpoint_survives_a_full_disk(tmp_path):
  process = subprocess.run(
    [sys.executable, "-c", FULL_DISK, str(tmp_path)],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 3, process.stderr
  message = json.loads(process.stdout.splitlines()[-1])
  assert "could not save" in message and str(tmp_path) in message
  assert "Complete checkpoints: [1]" in message and "free space" in message
  abstract = jax.device_put({"w": jnp.zeros(1000)}, mesh.replicated(mesh.data_mesh()))
  with checkpoint.Checkpoints(tmp_path) as saved:
    assert saved.steps == [1]
    state, _ = saved.restore(abstract)
  np.testing.assert_array_equal(state["w"], jax.random.normal(jax.random.key(0), (1000,)))


def test_weights_come_back_with_their_info_and_list_numbers(tmp_path):
  params = {"blocks": {0: {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}}
  info = {"contents": "model", "num_classes": 3, "model": {"aspp_dilations": [1, 2]}}
  for name, stats in (("with", {"mean": np.float32([1, 2])}), ("without", {})):
    checkpoint.save_weights(tmp_path / name, params, stats, info)
    loaded = checkpoint.load_weights(tmp_path / name)
    jax.tree.map(np.testing.assert_array_equal, loaded[:2], (params, stats))
    assert loaded[2] == info


def test_weights_are_never_overwritten_and_what_is_none_is_named(tmp_path):
  checkpoint.save_weights(tmp_path / "weights", {"a": np.ones(2)}, {}, {})
  with pytest.raises(checkpoint.CheckpointError, match="weights exists already"):
    checkpoint.save_weights(tmp_path / "weights", {"a": np.zeros(2)}, {}, {})
  assert checkpoint.load_weights(tmp_path / "weights")[0]["a"].all()
  with pytest.raises(checkpoint.CheckpointError, match="nowhere does not exist"):
    checkpoint.load_weights(tmp_path / "nowhere")
  (tmp_path / "other").mkdir()
  with pytest.raises(checkpoint.CheckpointError, match="other holds no converted weights"):
    checkpoint.load_weights(tmp_path / "other")
