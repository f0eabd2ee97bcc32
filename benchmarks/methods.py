"""What a method costs in the training step: `python -m benchmarks.methods`, about seven minutes.

The steps of the small models of `shapes_lt` take turns on the same batches, so that read as ratios
to the baseline the times also mean something on a shared machine. Reading the data is left out
(`benchmarks.input_pipeline` has it), so Repeat Factor Sampling, which changes no step, is too.
"""

import itertools
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app

from benchmarks import training
from configs import shapes_lt
from input_pipeline import pipeline, prepared
from ltss_jax import build, dataset as dataset_lib, mesh as mesh_lib

_BATCHES, _ROUNDS = 8, 24
# What differs from the baseline's config, for both models.
_METHODS = {
  "baseline": {},
  "seesaw": {"loss.class_loss": "seesaw"},
  "focal": {"loss.class_loss": "focal"},
}
_MASK2FORMER_METHODS = {
  "baseline": {},
  "seesaw": {"loss.class_loss": "seesaw", "model.class_head": "seesaw"},
  "frequency_matcher": {"loss.frequency_matcher": True},
  "ignored pixels left out": {"loss.ignored_pixels": "left_out"},
}


def _step(config, dataset: dataset_lib.Dataset, mesh: jax.sharding.Mesh) -> Callable:
  """Function of a batch that does one step and waits for it; compiled."""
  _, state, step = training.make(config, dataset, mesh)

  def run(batch) -> None:
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)

  return run


def compare(model: str) -> None:
  """Prints the median step time of every method and its ratio to the baseline's."""
  config = shapes_lt.get_config(f"model={model}")
  config.data.num_workers = 0
  config, dataset = dataset_lib.prepare_run(config)
  mesh = mesh_lib.data_mesh(fsdp=config.mesh.fsdp)
  methods = _MASK2FORMER_METHODS if model == "mask2former" else _METHODS
  steps = {}
  for name, fields in methods.items():
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    steps[name] = _step(changed, dataset, mesh)
  source = prepared.open_source(dataset.directory, "train")
  stream = build.train_pipeline_config(config, dataset, config.model.max_targets)
  with pipeline.train_iterator(source, stream) as iterator:
    batches = [mesh_lib.put_batch(b, mesh) for b in itertools.islice(iterator, _BATCHES)]
  times = {name: [] for name in steps}
  for i in range(_ROUNDS + 1):  # The first round compiles.
    for name, step in steps.items():
      start = time.perf_counter()
      step(batches[i % _BATCHES])
      times[name].append(time.perf_counter() - start)
  baseline = np.array(times["baseline"][1:])
  for name, seconds in times.items():
    ratio = np.median(np.array(seconds[1:]) / baseline)
    print(f"{model}, {name}: {1000 * np.median(seconds[1:]):.0f} ms, {ratio:.3f} of the baseline")


def main(argv: list[str]) -> None:
  """Runs both models."""
  del argv
  for model in ("mask2former", "deeplabv3plus"):
    compare(model)


if __name__ == "__main__":
  app.run(main)
