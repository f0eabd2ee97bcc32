"""Runs as training leaves them, without a training: their files come from the real writers."""

import json

import numpy as np
import pytest

from configs import shapes_lt
from input_pipeline import class_stats
from ltss_jax.results import evaluation_result
from ltss_jax.visualization import example_images
from ltss_jax.workdir import paths, run_config


def make_result(num_classes, seed):
  """(result, confusion) of a classifier that is the better, the more frequent a class is."""
  rng = np.random.default_rng(seed)
  images = np.geomspace(20_000, 1, num_classes).astype(np.int64) - 1  # the rarest is never seen
  share = images * rng.uniform(0.01, 0.2, num_classes)
  right = np.linspace(0.95, 0, num_classes)
  pixels = (images + 1) * 100
  confusion = np.diag(np.int64(pixels * right))
  wrong = rng.permutation(num_classes)
  np.add.at(confusion, (np.arange(num_classes), wrong), pixels - confusion.diagonal())
  result = evaluation_result.make_result(
    confusion,
    class_names=[f"class {c} <b>&" for c in range(num_classes)],
    train_images=images,
    train_pixel_share=share,
    image_groups=class_stats.frequency_groups(images),
    pixel_groups=class_stats.frequency_groups(share),
  )
  return result, confusion


def make_example(i, num_classes):
  rng = np.random.default_rng(i)
  label = rng.integers(0, num_classes, (6, 8)).repeat(10, 0).repeat(10, 1)
  prediction = np.where(rng.random(label.shape) < 0.3, 0, label).astype(np.uint16)
  label[:5] = 255
  image = rng.integers(0, 256, (*label.shape, 3), dtype=np.uint8)
  return example_images.Example(f"{i}.jpg", 0.1 * i, image, label.astype(np.uint16), prediction)


def _write_run(workdir, num_classes=12, seed=0, steps=(50, 100), learning_rate=1e-3):
  """Writes what a training of some steps leaves, without its checkpoints."""
  workdir.mkdir(parents=True)
  config = shapes_lt.get_config()
  config.optimizer.learning_rate = learning_rate
  run_config.write(workdir, config)
  lines = [
    {"step": step, "loss": 100 / step, "loss_mask": 60 / step, "grad_norm": 1.0}
    | {"learning_rate": learning_rate * (1 - step / 101)}
    for step in range(10, steps[-1] + 1, 10)
  ]
  paths.metrics(workdir).write_text("".join(json.dumps(line) + "\n" for line in lines))
  for i, step in enumerate(steps):
    result, confusion = make_result(num_classes, seed + i)
    evaluation_result.write_result(result, paths.result(workdir, step))
    np.savez_compressed(paths.confusion(workdir, step), confusion=confusion)
  kept = [make_example(i, min(num_classes, 200)) for i in range(8)]
  example_images.save(kept, paths.examples(workdir, steps[-1]))
  start = {
    "step": 0,
    "train_images": 1080,
    "val_images": 240,
    "time": "2026-11-22T12:00:00+00:00",
    "commit": "0123456789abcdef",
    "uncommitted_changes": True,
    "device": "cpu",
    "num_devices": 1,
    "num_processes": 1,
    "platform": "Linux",
    "python": "3.11.2",
    "versions": {"jax": "0.10.2"},
  }
  paths.environment(workdir).write_text(json.dumps(start) + "\n")
  return workdir


@pytest.fixture(name="write_run", scope="session")
def _write_run_fixture():
  return _write_run


@pytest.fixture(name="workdir")
def _workdir(tmp_path):
  return _write_run(tmp_path / "demo")
