"""main.py as its users run it: real processes, real files."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import cv2
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from ltss_jax import checkpoint, example_images, results

REPOSITORY = pathlib.Path(__file__).parents[1]
NUM_STEPS = 12
# Small enough to compile in seconds.
SMALL = (
  "--config.model.aspp_channels=8",
  "--config.model.low_level_channels=8",
  "--config.model.decoder_channels=8",
  "--config.model.aspp_dilations=(1,)",
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A user's folder: 12 + 7 small images of two sizes, classes told apart by colour."""
  root = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  colors = np.array([[40, 40, 200], [60, 200, 60], [220, 80, 40]])
  for split, count in (("train", 12), ("val", 7)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      height, width = [(40, 48), (44, 36)][i % 2]
      label = cv2.resize(
        rng.integers(0, 3, (4, 4)).astype(np.uint8), (width, height), interpolation=0
      )
      image = np.clip(colors[label] + rng.normal(0, 12, (height, width, 3)), 0, 255)
      label[:2] = 255
      cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), image.astype(np.uint8))
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  (root / "classes.txt").write_text("sky\ngrass\nroof\n")
  return root


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory):
  """Where all runs of the module find the prepared folder."""
  directory = tmp_path_factory.mktemp("data")
  command = [sys.executable, "-m", "input_pipeline.prepare", "folder"]
  command += [f"--root={folder}", f"--data_dir={directory}"]
  subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
  return directory


def command(folder, data_dir, workdir, *arguments):
  return [
    sys.executable,
    "main.py",
    "--config=configs/folder.py",
    f"--config.data.root={folder}",
    f"--config.data.dir={data_dir}",
    f"--workdir={workdir}",
    *SMALL,
    *arguments,
  ]


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
  """Runs of the same program share its compilation, as they may for users (docs/training.md)."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    yield


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow(tmp_path_factory):
  """Ends every process of this module that as much as tries to import TensorFlow."""
  folder = tmp_path_factory.mktemp("blocked")
  (folder / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')\n")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", str(folder))
    yield


def environment(devices=1):
  return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def run(*arguments, devices=1):
  return subprocess.run(
    command(*arguments),
    cwd=REPOSITORY,
    env=environment(devices),
    capture_output=True,
    text=True,
    check=False,
  )


def start(*arguments, devices=1):
  return subprocess.Popen(
    command(*arguments),
    cwd=REPOSITORY,
    env=environment(devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


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


@pytest.fixture(scope="module")
def reference(folder, data_dir, tmp_path_factory):
  """The workdir and the output of an uninterrupted run on one device."""
  workdir = tmp_path_factory.mktemp("runs") / "reference"
  pictures = ("--config.train.report=true", "--config.train.log_images_every_steps=6")
  process = run(folder, data_dir, workdir, *pictures)
  assert process.returncode == 0, process.stderr
  return workdir, process


def test_training_prints_and_writes_what_the_readme_says(reference):
  workdir, process = reference
  assert "backbone/stem/conv/kernel" in process.stderr  # parameter overview
  progress = [line for line in process.stderr.splitlines() if f"step 6/{NUM_STEPS}" in line]
  assert len(progress) == 1
  for word in ("loss", "learning_rate", "images/s", "data wait", "ETA"):
    assert word in progress[0]
  assert "Traceback" not in process.stderr
  for word in ("sky", "grass", "roof", "mIoU", "rare", "common", "frequent"):
    assert word in process.stdout
  names = {path.name for path in workdir.iterdir()}
  assert {"checkpoints", "eval", "metrics.jsonl", "config.json", "environment.jsonl"} <= names
  assert any(name.startswith("events.out.tfevents") for name in names)
  assert [step for step, _ in metrics(workdir, "loss")] == [3, 6, 9, 12]
  assert [step for step, _ in metrics(workdir, "eval/mIoU")] == [8, 12]
  record = json.loads((workdir / "eval" / "12.json").read_text())
  assert {"mIoU", "fwIoU", "mACC", "pACC", "image_level", "pixel_level", "per_class"} <= set(record)
  assert set(record["image_level"]) == {"rare", "common", "frequent"}


def test_training_ends_with_pictures_and_a_report(reference, folder, data_dir):
  workdir, _ = reference
  kept = example_images.load(workdir / "eval" / "12_examples.npz")
  assert len(kept) == 7  # all validation images, worst first
  assert [e.miou for e in kept] == sorted(e.miou for e in kept)
  record = json.loads((workdir / "eval" / "12.json").read_text())
  assert kept[0].miou <= record["mIoU"] / 100 <= kept[-1].miou
  text = (workdir / "report.html").read_text(encoding="utf-8")
  for word in ("roof", "worst", f"{record['mIoU']:.2f}", "data:image/jpeg", "share (%)"):
    assert word.lower() in text.lower()
  # Made anew from the files alone, it is the same page.
  process = run(folder, data_dir, workdir, "--mode=report", f"--output={workdir / 'again.html'}")
  assert process.returncode == 0, process.stderr
  assert (workdir / "again.html").read_text(encoding="utf-8") == text


def test_killed_at_a_random_step_it_resumes_to_the_same_bits(reference, folder, data_dir, tmp_path):
  process = start(folder, data_dir, tmp_path)
  # The save of step 8 has waited for that of step 4, and may itself be cut off half-way.
  wait_for_line(process, f"step 9/{NUM_STEPS}")
  time.sleep(np.random.default_rng(os.getpid()).uniform(0, 0.1))
  process.kill()
  process.communicate()
  resumed = run(folder, data_dir, tmp_path)
  assert resumed.returncode == 0, resumed.stderr
  assert "Continuing from step" in resumed.stderr
  assert_same_run(tmp_path, reference[0])


def test_sigterm_saves_and_exits_cleanly(reference, folder, data_dir, tmp_path):
  """Without the evaluation that is due, which the next start makes up for."""
  often = "--config.eval.every_steps=1"
  process = start(folder, data_dir, tmp_path, often)
  wait_for_line(process, f"step 3/{NUM_STEPS}")
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  assert "Asked to stop: saved step" in output and "Traceback" not in output
  step = int(output.split("Asked to stop: saved step ")[1].split(";")[0])
  record = tmp_path / "eval" / f"{step}.json"
  assert not record.exists()
  resumed = run(folder, data_dir, tmp_path, often)
  assert resumed.returncode == 0, resumed.stderr
  assert record.exists()
  assert_same_run(tmp_path, reference[0])
  assert [s for s, _ in metrics(tmp_path, "eval/mIoU")] == list(range(1, NUM_STEPS + 1))


def wait_for_line(process, text):
  for line in process.stdout:
    if text in line:
      return
  pytest.fail(f"the process ended before it printed {text!r}")


def test_evaluate_mode_scores_any_saved_step(reference, folder, data_dir):
  workdir, _ = reference
  written = (workdir / "eval" / "8.json").read_bytes()
  (workdir / "eval" / "8.json").unlink()
  process = run(folder, data_dir, workdir, "--mode=evaluate", "--config.eval.step=8")
  assert process.returncode == 0, process.stderr
  assert (workdir / "eval" / "8.json").read_bytes() == written
  assert "roof" in process.stdout


def test_wrong_uses_end_in_one_message(reference, folder, data_dir, tmp_path):
  workdir, _ = reference
  cases = [
    ((workdir, "--config.seed=5"), "config.seed: 0 there, 5 now"),
    ((tmp_path, "--config.batch_size=0"), "config.batch_size"),
    ((tmp_path, "--mode=evaluate"), "holds no trained model"),
  ]
  for arguments, expected in cases:
    process = run(folder, data_dir, *arguments)
    assert process.returncode != 0
    assert expected in process.stderr
    assert "Traceback" not in process.stderr
  other = tmp_path / "other"  # the same images, with classes of other names
  shutil.copytree(folder, other)
  (other / "classes.txt").write_text("cat\ndog\ncow\n")
  for mode in ("train", "evaluate"):
    process = run(other, data_dir, workdir, f"--mode={mode}")
    assert process.returncode != 0 and "Traceback" not in process.stderr
    assert "classes: 3 (sky, grass, roof) there, 3 (cat, dog, cow) now" in process.stderr
  process = run(folder, data_dir, tmp_path, "--config.batch_size=6", devices=4)
  assert process.returncode != 0 and "Traceback" not in process.stderr
  assert "config.batch_size is 6" in process.stderr and "4 or 8" in process.stderr


def test_diverging_training_stops_with_a_message_and_keeps_the_last_checkpoint(
  folder, data_dir, tmp_path
):
  process = run(
    folder,
    data_dir,
    tmp_path,
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=1e30",
    "--config.train.max_nonfinite_steps=0",
    "--config.checkpoint.every_steps=1",
  )
  assert process.returncode == 1
  assert "not finite at step" in process.stderr and "Last good checkpoint: 1" in process.stderr
  assert "learning_rate" in process.stderr and "Traceback" not in process.stderr
  # No checkpoint of this run was evaluated, so none is the best.
  best = run(folder, data_dir, tmp_path, "--mode=evaluate", "--config.eval.step=-1")
  assert best.returncode == 1 and "Traceback" not in best.stderr
  assert "none there was evaluated in training" in best.stderr
  assert "has the steps [1" in best.stderr


def two_processes(folder, data_dir, workdir, *arguments, code=0):
  """The outputs of a job of two processes with two devices each, both of which end with a code."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  job = [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
  both = [
    start(folder, data_dir, workdir, *job, f"--process_id={i}", *arguments, devices=2)
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=400)[0] for process in both]
  assert [process.returncode for process in both] == [code, code], "\n".join(outputs)
  return outputs


def test_two_processes_equal_one(folder, data_dir, tmp_path):
  steps = 20
  options = (
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=1e-3",
    "--config.batch_size=8",
    f"--config.train.steps={steps}",
    "--config.train.log_every_steps=1",
    f"--config.eval.every_steps={steps}",
    "--config.eval.save_json=true",
    f"--config.checkpoint.every_steps={steps}",
  )
  one, two = tmp_path / "one", tmp_path / "two"
  process = run(folder, data_dir, one, *options, devices=4)
  assert process.returncode == 0, process.stderr
  output, _ = two_processes(folder, data_dir, two, *options)
  assert "on 4 x cpu, 2 process(es)" in output
  losses = [[value for _, value in metrics(workdir, "loss")] for workdir in (one, two)]
  assert len(losses[0]) == steps
  # The same sums, all-reduced in another order: float32 round-off over 20 steps.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  stats = [jax.tree.leaves(saved_state(workdir, steps)["stats"]) for workdir in (one, two)]
  for theirs, ours in zip(*stats, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  # 7 validation images do not divide over two processes; the counts of one state are whole numbers.
  files = [one / "eval" / f"{steps}{ending}" for ending in (".json", "_predictions.json")]
  written = [file.read_bytes() for file in files]
  for file in files:
    file.unlink()
  two_processes(folder, data_dir, one, *options, "--mode=evaluate")
  assert [file.read_bytes() for file in files] == written
  assert len({entry["file_name"] for entry in json.loads(written[1])}) == 7


def test_two_processes_report_once_and_export_nothing(folder, data_dir, tmp_path):
  groups = np.array([0, 1, 2])
  record = results.make_record(
    np.diag([1, 2, 3]),
    class_names=("sky", "grass", "roof"),
    train_images=groups,
    train_pixel_share=groups,
    image_groups=groups,
    pixel_groups=groups,
  )
  results.write_record(record, tmp_path / "eval" / "8.json")
  outputs = two_processes(folder, data_dir, tmp_path, "--mode=report")
  assert ["The report is" in output for output in outputs] == [True, False]
  assert (tmp_path / "report.html").exists()
  exported = tmp_path / "exported"
  arguments = ("--mode=export", f"--output={exported}")
  for output in two_processes(folder, data_dir, tmp_path, *arguments, code=1):
    assert output.count("Error: --mode=export runs in one process, and this job has 2") == 1
    assert "Traceback" not in output
  assert not exported.exists()


MASK2FORMER = (
  "--config.model.name=mask2former",
  "--config.model.channels=32",
  "--config.model.num_queries=8",
  "--config.model.decoder_layers=1",
  "--config.loss.num_points=64",
  # AdamW makes whole steps of gradients that are nothing but round-off.
  "--config.optimizer.name=sgd",
  "--config.optimizer.learning_rate=1e-3",
  "--config.optimizer.warmup_steps=0",
)


@pytest.mark.parametrize("matcher", ["scipy", pytest.param("optax", marks=pytest.mark.slow)])
def test_mask2former_on_two_processes_equals_one(folder, data_dir, tmp_path, matcher):
  steps = 10
  options = (
    *MASK2FORMER,
    # What has state or columns of its own in the step: Seesaw's counts, repeated targets.
    "--config.loss.class_loss=seesaw",
    "--config.model.class_head=seesaw",
    "--config.loss.frequency_matcher=true",
    f"--config.loss.matcher={matcher}",
    "--config.batch_size=8",
    f"--config.train.steps={steps}",
    "--config.train.log_every_steps=1",
    f"--config.eval.every_steps={steps}",
    f"--config.checkpoint.every_steps={steps}",
  )
  one, two = tmp_path / "one", tmp_path / "two"
  process = run(folder, data_dir, one, *options, devices=4)
  assert process.returncode == 0, process.stderr
  two_processes(folder, data_dir, two, *options)
  names = ("loss", "loss_class", "loss_mask", "loss_dice")
  losses = [np.array(metrics(workdir, *names))[:, 1:] for workdir in (one, two)]
  assert losses[0].shape == (steps, 4)
  # The same sums in another order, and what ten updates make of the round-off.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
  counts = [
    np.asarray(saved_state(workdir, steps)["stats"]["transformer_decoder"]["seesaw_counts"])
    for workdir in (one, two)
  ]
  # Every image has a class, whose query is counted for both predictions.
  assert counts[0].sum() >= steps * 8 * 2
  np.testing.assert_array_equal(counts[1], counts[0])
