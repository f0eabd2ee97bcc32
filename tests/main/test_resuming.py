"""A training that was cut off, damaged or finished goes on to the same bits."""

import json
import shutil
import signal

import pytest

from tests.main import kill_at, runs


@pytest.mark.parametrize(
  "moments", [kill_at.TWO, pytest.param(kill_at.OTHERS, marks=pytest.mark.slow)]
)
def test_killed_at_chosen_moments_it_ends_with_the_same_bits(
  reference, folder, data_dir, tmp_path, moments
):
  options = ("--config.train.report=true", "--config.checkpoint.keep=1")
  arguments = (folder, data_dir, tmp_path, *options)
  for moment in moments:
    killed = runs.run(*arguments, moment=moment)
    assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
  resumed = runs.run(*arguments)
  assert resumed.returncode == 0, resumed.stderr
  runs.assert_same_run(tmp_path, reference[0])
  ours, theirs = (sorted((w / "eval").iterdir()) for w in (tmp_path, reference[0]))
  assert [(p.name, p.read_bytes()) for p in ours] == [(p.name, p.read_bytes()) for p in theirs]
  assert (tmp_path / "report.html").exists() and not list(tmp_path.rglob("*tmp*"))


def test_sigterm_saves_and_exits_cleanly(reference, folder, data_dir, tmp_path):
  """Without the evaluation that is due, which the next start makes up for."""
  often = "--config.eval.every_steps=1"
  process = runs.start(folder, data_dir, tmp_path, often)
  assert any(f"step 3/{runs.NUM_STEPS}" in line for line in process.stdout)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  assert "Asked to stop: saved step" in output and "Traceback" not in output
  step = int(output.split("Asked to stop: saved step ")[1].split(";")[0])
  record = tmp_path / "eval" / f"{step}.json"
  assert not record.exists()
  resumed = runs.run(folder, data_dir, tmp_path, often)
  assert resumed.returncode == 0, resumed.stderr
  assert record.exists()
  runs.assert_same_run(tmp_path, reference[0])
  assert [s for s, _ in runs.metrics(tmp_path, "eval/mIoU")] == list(range(1, runs.NUM_STEPS + 1))


def test_a_damaged_checkpoint_is_refused_and_training_goes_back_to_the_one_before(
  reference, folder, data_dir, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(reference[0], workdir)
  shutil.rmtree(workdir / "eval")
  [values] = workdir.glob(f"checkpoints/{runs.NUM_STEPS}/state/ocdbt.process_0/d/*")
  data = bytearray(values.read_bytes())
  data[len(data) // 2] ^= 1
  values.write_bytes(bytes(data))
  refused = runs.run(folder, data_dir, workdir, "--mode=evaluate")
  assert refused.returncode == 1 and not (workdir / "eval").exists()
  assert f"Error: the checkpoint of step {runs.NUM_STEPS} in " in refused.stderr
  assert "came back as other values than were saved" in refused.stderr
  assert "Traceback" not in refused.stderr
  resumed = runs.run(folder, data_dir, workdir)
  assert resumed.returncode == 0 and "Traceback" not in resumed.stderr, resumed.stderr
  assert f"put aside as {workdir}/checkpoints/damaged-{runs.NUM_STEPS}-0" in resumed.stderr
  assert "Continuing from step 8" in resumed.stderr
  assert (workdir / "eval" / f"{runs.NUM_STEPS}.json").exists()
  shutil.copy(reference[0] / "eval" / "8.json", workdir / "eval")  # which is not made again
  runs.assert_same_run(workdir, reference[0])


def test_averages_survive_a_kill_and_are_what_is_evaluated(reference, folder, data_dir, tmp_path):
  options = ("--config.optimizer.ema_decay=0.9", "--config.checkpoint.keep=9")
  at_once, killed = tmp_path / "at once", tmp_path / "killed"
  process = runs.run(folder, data_dir, at_once, *options)
  assert process.returncode == 0, process.stderr
  process = runs.run(folder, data_dir, killed, *options, moment="the second save")
  assert process.returncode == -signal.SIGKILL, process.stderr
  process = runs.run(folder, data_dir, killed, *options)
  assert process.returncode == 0 and "Continuing from step 4" in process.stderr, process.stderr
  runs.assert_same_run(killed, at_once)
  state = runs.saved_state(at_once)
  kernels = [tree["classifier"]["kernel"] for tree in (state["params"], state["ema"]["params"])]
  assert (kernels[0] != kernels[1]).any()
  # Another result than that of the weights themselves, and the same when it is asked for later.
  record = at_once / "eval" / "8.json"
  written = record.read_bytes()
  assert written != (reference[0] / "eval" / "8.json").read_bytes()
  record.unlink()
  process = runs.run(folder, data_dir, at_once, *options, "--mode=evaluate", "--config.eval.step=8")
  assert process.returncode == 0 and "its averaged weights" in process.stderr, process.stderr
  assert record.read_bytes() == written


def test_a_finished_run_of_constant_rate_is_made_longer(folder, data_dir, tmp_path):
  constant = ("--config.optimizer.poly_power=0", "--config.eval.every_steps=4")
  constant += ("--config.train.log_every_steps=4",)  # as the last step is always logged
  assert runs.run(folder, data_dir, tmp_path / "at once", *constant).returncode == 0
  longer = tmp_path / "longer"
  assert runs.run(folder, data_dir, longer, *constant, "--config.train.steps=8").returncode == 0
  process = runs.run(folder, data_dir, longer, *constant)
  assert process.returncode == 0 and "Continuing from step 8" in process.stderr, process.stderr
  runs.assert_same_run(longer, tmp_path / "at once")
  config = json.loads((longer / "config.json").read_text())
  assert config["train"]["steps"] == runs.NUM_STEPS
