"""Prints what the hot paths cost: `make bench`, two minutes on two CPU cores, eight with torch.

Times are medians over repetitions that alternate between the two candidates; read the ratios, not
the milliseconds, on a machine that is shared.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks import against_transformers, eomt, training
from configs import shapes_lt
from input_pipeline import pipeline, prepared, validation_batches
from ltss_jax import build, console, dataset as dataset_lib, mesh as mesh_lib
from ltss_jax.evaluation.confusion import confusion_matrix
from ltss_jax.inference import score_maps
from ltss_jax.inference.predictor import Predictor
from ltss_jax.losses import pixel

_REPETITIONS = 7
_STEPS = 30


def _seconds(function: Callable, *arguments) -> float:
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start


def compare(title: str, ours: Callable, other_name: str, other: Callable, *arguments) -> None:
  """Times two jitted functions of the same arguments in turn and prints the ratio."""
  ours, other = jax.jit(ours), jax.jit(other)
  jax.block_until_ready((ours(*arguments), other(*arguments)))
  pairs = [(_seconds(ours, *arguments), _seconds(other, *arguments)) for _ in range(_REPETITIONS)]
  mine, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
  ratio = statistics.median(a / b for a, b in pairs)
  print(f"{title}: {mine:.1f} ms, {other_name}: {theirs:.1f} ms, ratio {ratio:.2f}")


def hard_pixel_mining() -> None:
  """The threshold search against sorting, with gradient, 16 x 128 x 128 pixels."""
  losses = jax.random.exponential(jax.random.key(0), (16, 128, 128))

  def by_sorting(x):
    return jax.lax.top_k(x.ravel(), int(0.2 * x.size))[0].mean()

  compare(
    "hard pixel mining, value and gradient",
    jax.value_and_grad(lambda x: pixel.hard_pixel_mean(x, 0.2)),
    "top_k",
    jax.value_and_grad(by_sorting),
    losses,
  )


def labels_at_original_size() -> None:
  """Blockwise resize and argmax against resizing everything, 171 classes to 640 x 480."""
  scores = jax.random.normal(jax.random.key(0), (1, 128, 171, 171))
  interpolation = (
    score_maps.interpolation_weights(128, 480, 480),
    score_maps.interpolation_weights(171, 640, 640),
  )

  def labels(scores):
    def block(start, count):
      return jax.lax.dynamic_slice_in_dim(scores[0], start, count, axis=-1)

    return score_maps.argmax(block, 171, 480 * 640, interpolation)

  compare(
    "resize and argmax",
    labels,
    "jax.image.resize",
    lambda s: jnp.argmax(
      jax.image.resize(s, (1, 480, 640, 171), "bilinear", antialias=False), axis=-1
    ),
    scores,
  )


def labels_and_counts_on_one_core() -> None:
  """Resize of 171 score maps, argmax and counts against OpenCV and NumPy, on one core."""
  command = [sys.executable, "-m", "benchmarks.label_counts"]
  subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def training_and_evaluation() -> None:
  """The demo's training with two workers and its evaluation, on real files."""
  config = shapes_lt.get_config()
  config.data.num_workers = 2
  with tempfile.TemporaryDirectory() as data_dir:
    config.data.dir = data_dir
    config, dataset = dataset_lib.prepare_run(config)
    mesh = mesh_lib.data_mesh(fsdp=config.mesh.fsdp)
    objective, state, step = training.make(config, dataset, mesh)
    source = prepared.open_source(dataset.directory, "train")
    pipeline_config = build.train_pipeline_config(config, dataset, objective.max_targets)
    with pipeline.train_iterator(source, pipeline_config) as batches:
      state, metrics = step(state, mesh_lib.put_batch(next(batches), mesh))
      jax.block_until_ready(metrics)
      start, waited = time.perf_counter(), 0.0
      for _ in range(_STEPS):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        state, metrics = step(state, mesh_lib.put_batch(batch, mesh))
        jax.block_until_ready(metrics)
      seconds = time.perf_counter() - start
    images = _STEPS * config.batch_size
    print(
      f"training, two workers: {images / seconds:.1f} images/s, data wait {waited / seconds:.1%}"
    )

    source = prepared.open_source(dataset.directory, "val")
    counts = dataset.val_counts
    architecture = build.build_architecture(config, num_classes=dataset.metadata.num_classes)
    predictor = Predictor(architecture, mesh)
    for name in ("evaluation with compilation", "evaluation"):
      batches = validation_batches.ValidationBatches(
        source,
        (counts.height, counts.width),
        batch_size=config.eval.batch_size,
        min_size=config.eval.min_size,
        max_size=config.eval.max_size,
      )
      start = time.perf_counter()
      confusion = confusion_matrix(
        predictor,
        state.params,
        state.stats,
        batches,
        num_classes=dataset.metadata.num_classes,
        ignore_label=dataset.metadata.ignore_label,
      )
      seconds = time.perf_counter() - start
      print(f"{name}: {len(counts) / seconds:.1f} images/s, {np.sum(confusion):,} pixels counted")


def main(argv: list[str]) -> None:
  """Runs every benchmark."""
  del argv
  console.setup_logging()
  print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
  hard_pixel_mining()
  labels_at_original_size()
  labels_and_counts_on_one_core()
  training_and_evaluation()
  against_transformers.main()
  eomt.main()


if __name__ == "__main__":
  app.run(main)  # worker processes of the input pipeline read absl flags
