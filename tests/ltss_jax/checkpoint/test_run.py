"""Checkpoints on a real disk: round trip, what is kept, what is left after a failure."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax import checkpoint, mesh
from tests import programs


def test_round_trip_is_exact_and_opens_again(tmp_path, make_state, data_state):
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
    assert saved.steps == []
    saved.save(7, make_state(7), data_state(7))
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
    assert saved.steps == [7]
    state, data = saved.restore(make_state(0), data_state(0))
  assert data == data_state(7)
  jax.tree.map(np.testing.assert_array_equal, state, make_state(7))


def test_a_relative_directory_will_do(tmp_path, monkeypatch, make_state, data_state):
  monkeypatch.chdir(tmp_path)
  with checkpoint.Checkpoints("runs/demo/checkpoints") as saved:
    saved.save(1, make_state(1), data_state(1))
  assert (tmp_path / "runs/demo/checkpoints/1").is_dir()
  with checkpoint.Checkpoints("runs/demo/checkpoints") as saved:
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_keeps_the_last_and_the_best(tmp_path, make_state, data_state):
  with checkpoint.Checkpoints(tmp_path, keep=2) as saved:
    for step, miou in [(1, 30.0), (2, 50.0), (3, None), (4, 40.0), (5, None)]:
      saved.save(step, make_state(step), data_state(step), miou)
    saved.wait()
    assert saved.steps == [2, 4, 5]
    assert saved.best_step == 2
    assert int(saved.restore(make_state(0), step=4)[0].step) == 4
    assert int(saved.restore(make_state(0))[0].step) == 5


def test_saving_a_step_twice_keeps_the_first(tmp_path, make_state, data_state):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), data_state(1))
    saved.save(1, make_state(9), data_state(9))
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_missing_step_and_other_shapes_are_named(tmp_path, make_state, data_state):
  with checkpoint.Checkpoints(tmp_path) as saved:
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint.*none"):
      saved.restore(make_state(0))
    saved.save(3, make_state(3), data_state(3))
    saved.wait()
    with pytest.raises(checkpoint.CheckpointError, match=r"of step 4; there are: \[3\]"):
      saved.restore(make_state(0), step=4)
    other = make_state(0)
    other.params["blocks"][0]["kernel"] = jnp.ones((2, 4))
    with pytest.raises(
      checkpoint.CheckpointError,
      match=r"step 3 in .*\n.*blocks/0/kernel: saved as float32 \(2, 3\), .* float32 \(2, 4\)$",
    ) as caught:
      saved.restore(other)
  assert not isinstance(caught.value, checkpoint.DamagedCheckpointError)


def test_a_checkpoint_without_its_score_is_replaced_by_one_with_it(
  tmp_path, make_state, data_state
):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), data_state(1))
    assert not saved.is_scored(1) and saved.best_step is None
    saved.save(1, make_state(1), data_state(1), 30.0)
    saved.wait()
    assert saved.is_scored(1) and saved.best_step == 1
    saved.save(1, make_state(9), data_state(9), 40.0)  # it has its score
    assert int(saved.restore(make_state(0))[0].step) == 1


def test_a_reader_leaves_a_save_in_progress_alone(tmp_path, make_state, data_state):
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
  process = programs.run("-c", FULL_DISK, tmp_path)
  assert process.returncode == 3, process.stderr
  message = json.loads(process.stdout.splitlines()[-1])
  assert "could not save" in message and str(tmp_path) in message
  assert "Complete checkpoints: [1]" in message and "free space" in message
  abstract = jax.device_put({"w": jnp.zeros(1000)}, mesh.replicated(mesh.data_mesh()))
  with checkpoint.Checkpoints(tmp_path) as saved:
    assert saved.steps == [1]
    state, _ = saved.restore(abstract)
  np.testing.assert_array_equal(state["w"], jax.random.normal(jax.random.key(0), (1000,)))


@pytest.fixture
def two_steps(tmp_path, make_state, data_state):
  """The directory of a run with the checkpoints of steps 3 and 7, both evaluated."""
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
    saved.save(3, make_state(3), data_state(3), 40.0)
    saved.save(7, make_state(7), data_state(7), 30.0)
  return tmp_path / "checkpoints"


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def is_step(step, loaded, make_state, data_state):
  """Whether everything is what was saved for a step."""
  state, data = loaded
  leaves = zip(jax.tree.leaves(state), jax.tree.leaves(make_state(step)), strict=True)
  return all(np.array_equal(ours, theirs) for ours, theirs in leaves) and data == data_state(step)


def test_no_flipped_byte_and_no_truncation_gives_another_state(
  two_steps, make_state, data_state, damage_one_by_one
):
  seen = {"restored as it was": 0, "refused": 0}
  for what in damage_one_by_one(two_steps / "7"):
    try:
      with checkpoint.Checkpoints(two_steps, keep=2, read_only=True) as saved:
        loaded = saved.restore(make_state(0), data_state(0))
        assert is_step(7, loaded, make_state, data_state), what
        assert saved.best_step == 3, what
        weights = saved.read_raw(7, "params", "stats")
        jax.tree.map(np.testing.assert_array_equal, weights["params"], make_state(7).params)
      seen["restored as it was"] += 1
    except checkpoint.DamagedCheckpointError as error:
      seen["refused"] += 1
      assert f"the checkpoint of step 7 in {two_steps} is damaged: " in str(error), what
      assert "Restore its folder from a copy, or remove it." in str(error), what
  # Some bytes mean nothing: what is left of each process's own index, free text, time stamps.
  assert seen["refused"] >= 15 and sum(seen.values()) == 30, seen


def test_the_damaged_array_is_named(two_steps, make_state, data_state):
  [values] = (two_steps / "7").glob("state/ocdbt.process_0/d/*")
  flip(values)  # in the middle, which is in the largest array
  named = r"step 7 in .* is damaged: params/noise.* came back as other values than were saved"
  with checkpoint.Checkpoints(two_steps, keep=2, read_only=True) as saved:
    with pytest.raises(checkpoint.DamagedCheckpointError, match=named):
      saved.restore(make_state(0), data_state(0))
    with pytest.raises(checkpoint.DamagedCheckpointError, match=named):
      saved.read_raw(7, "params")
    assert set(saved.read_raw(7, "stats")["stats"]) == {"mean"}  # which is whole


@pytest.mark.parametrize(
  "pattern",
  ["state/ocdbt.process_0/d/*", "data/d/*", "contents/process_0.json", "metrics/metrics"],
)
def test_resuming_goes_back_to_the_newest_undamaged_checkpoint(
  pattern, two_steps, make_state, data_state, caplog
):
  [path] = (two_steps / "7").glob(pattern)
  flip(path)
  with checkpoint.Checkpoints(two_steps, keep=2) as saved:
    loaded = saved.resume(make_state(0), data_state(0))
    assert is_step(3, loaded, make_state, data_state)
    assert saved.steps == [3] and saved.best_step == 3
    saved.save(7, make_state(7), data_state(7), 50.0)
  assert f"step 7 in {two_steps} is damaged" in caplog.text and "damaged-7-0" in caplog.text
  assert len(list((two_steps / "damaged-7-0").glob(pattern))) == 1  # nothing is removed
  with checkpoint.Checkpoints(two_steps, keep=2) as saved:
    assert saved.steps == [3, 7] and saved.best_step == 7
    assert is_step(7, saved.resume(make_state(0), data_state(0)), make_state, data_state)


def test_a_false_score_decides_nothing(two_steps, make_state, data_state):
  score = two_steps / "3" / "metrics" / "metrics"
  score.write_text(score.read_text().replace("40.0", "10.0"))
  with checkpoint.Checkpoints(two_steps, keep=1, read_only=True) as saved:
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"step 3 .*10\.0.* not .*40\.0"):
      saved.find(checkpoint.BEST)
    assert saved.find(checkpoint.LATEST) == 7
  with checkpoint.Checkpoints(two_steps, keep=1) as saved:
    assert is_step(7, saved.resume(make_state(0), data_state(0)), make_state, data_state)
    assert saved.steps == [7]


def test_where_all_are_damaged_nothing_is_put_aside(two_steps, make_state, data_state):
  for step in ("3", "7"):
    flip(two_steps / step / "contents" / "process_0.json")
  with (
    checkpoint.Checkpoints(two_steps, keep=2) as saved,
    pytest.raises(checkpoint.DamagedCheckpointError, match=r"step 7 [\s\S]* step 3 "),
  ):
    saved.resume(make_state(0), data_state(0))
  assert {"3", "7"} <= {path.name for path in two_steps.iterdir()}
  for step in ("3", "7"):
    (two_steps / step / "metrics" / "metrics").write_text("{")
  with pytest.raises(checkpoint.DamagedCheckpointError, match=r"step 3 [\s\S]* step 7 "):
    checkpoint.Checkpoints(two_steps, keep=2)


def test_a_number_is_not_turned_into_another_type(tmp_path, make_state):
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, make_state(1), {"next_batch": 1.5})
    saved.wait()
    with pytest.raises(checkpoint.CheckpointError, match=r"next_batch: saved as 1\.5, .* int"):
      saved.restore(make_state(0), {"next_batch": 0})
    other = make_state(0)
    other.params["bias"] = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(checkpoint.CheckpointError, match="bias: saved as float32.* bfloat16"):
      saved.restore(other)


def test_a_checkpoint_that_does_not_fit_is_not_put_aside(two_steps, make_state, data_state):
  other = make_state(0)
  other.params["more"] = jnp.ones(3)
  with (
    checkpoint.Checkpoints(two_steps, keep=2) as saved,
    pytest.raises(checkpoint.CheckpointError, match=r"\+ params/more: not saved") as caught,
  ):
    saved.resume(other, data_state(0))
  assert not isinstance(caught.value, checkpoint.DamagedCheckpointError)
  assert {path.name for path in two_steps.iterdir()} == {"3", "7"}


def test_what_older_versions_saved_is_read_with_a_warning(
  two_steps, make_state, data_state, caplog
):
  shutil.rmtree(two_steps / "7" / "contents")
  with checkpoint.Checkpoints(two_steps, keep=2) as saved:
    assert is_step(7, saved.resume(make_state(0), data_state(0)), make_state, data_state)
  assert "step 7" in caplog.text and "of an older version" in caplog.text
