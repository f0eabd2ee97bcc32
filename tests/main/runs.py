"""Small trainings by main.py, as real processes, and what they leave behind."""

import json
import pathlib
import subprocess
import tempfile

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from ltss_jax import checkpoint
from tests import programs, small_models

_BLOCKED = tempfile.TemporaryDirectory(prefix="blocked-")
NUM_STEPS = 12
# Small enough to compile in seconds.
SMALL = (
  *small_models.flags(small_models.DEEPLABV3PLUS),
  "--config.data.crop_size=32",
  "--config.data.num_workers=0",
  "--config.batch_size=4",
  "--config.eval.batch_size=4",
  f"--config.train.steps={NUM_STEPS}",
  "--config.train.log_every_steps=3",
  "--config.checkpoint.every_steps=4",
  "--config.eval.every_steps=8",
  "--config.train.report=false",
)


def command(folder, data_dir, workdir, *arguments, moment=None):
  return [
    *(["tests/main/kill_at.py", moment] if moment else []),
    "main.py",
    "--config=configs/folder.py",
    f"--config.data.root={folder}",
    f"--config.data.dir={data_dir}",
    f"--workdir={workdir}",
    *SMALL,
    *arguments,
  ]


def environment(devices=1):
  """Runs end where one imports TensorFlow."""
  (pathlib.Path(_BLOCKED.name) / "tensorflow.py").write_text("raise SystemExit('imported')\n")
  return programs.environment(devices, PYTHONPATH=_BLOCKED.name)


def run(*arguments, devices=1, moment=None):
  return programs.run(*command(*arguments, moment=moment), env=environment(devices))


def start(*arguments, devices=1):
  env = environment(devices)
  return programs.start(*command(*arguments), env=env, stderr=subprocess.STDOUT)


def metrics(workdir, *names):
  """The named values of metrics.jsonl by step."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [(line["step"], *[line[n] for n in names]) for line in lines if names[0] in line]


def saved_state(workdir, step=NUM_STEPS):
  """Everything a checkpoint holds, as numpy arrays."""
  with checkpoint.Checkpoints(workdir / "checkpoints", keep=100) as saved:
    return saved.read_raw(step)


def assert_same_run(workdir, reference):
  """Bit-identical parameters, optimizer state, logged metrics and results."""
  jax.tree.map(np.testing.assert_array_equal, saved_state(workdir), saved_state(reference))
  names = ("loss", "grad_norm", "learning_rate")
  assert metrics(workdir, *names) == metrics(reference, *names)
  events = event_accumulator.EventAccumulator(str(workdir)).Reload()
  for name in ("loss", "eval/mIoU"):
    shown = [(event.step, event.value) for event in events.Scalars(name)]
    assert shown == [(step, np.float32(value)) for step, value in metrics(workdir, name)]
  for step in (8, NUM_STEPS):
    ours, theirs = (w / "eval" / f"{step}.json" for w in (workdir, reference))
    assert ours.read_bytes() == theirs.read_bytes()


def wait_for_line(process, text):
  for line in process.stdout:
    if text in line:
      return
  pytest.fail(f"the process ended before it printed {text!r}")
