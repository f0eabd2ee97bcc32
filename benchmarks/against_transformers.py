"""Mask2Former R50 here and in the `transformers` package (torch, CPU), side by side in one run.

python -m benchmarks.against_transformers        needs torch and transformers; 3 minutes on 2 cores

Forward of one image of 512 x 512, and one training step (loss, gradient, clipping, AdamW) on two
crops of 256 x 256 with six classes each; 171 classes, 100 queries, float32, both with random
weights, both on all cores.
"""

import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from configs import common
from ltss_jax import architectures, build, mesh as mesh_lib, optimizer
from ltss_jax.training import train_step

NUM_CLASSES, MAX_TARGETS, CLASSES_PER_IMAGE = 171, 8, 6
REPETITIONS = 5


def example() -> dict[str, np.ndarray]:
  """A training batch: two crops of 256 x 256 with six rectangles of different classes each."""
  rng = np.random.default_rng(0)
  label = np.zeros((2, 256, 256), np.uint8)
  for row in label:
    for i, c in enumerate(rng.choice(NUM_CLASSES, CLASSES_PER_IMAGE, replace=False)):
      y, x = divmod(i, 3)
      row[y * 128 : (y + 1) * 128, x * 86 : (x + 1) * 86] = c
  classes = np.full((2, MAX_TARGETS), -1, np.int32)
  for row, present in zip(classes, map(np.unique, label), strict=True):
    row[: len(present)] = present
  image = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
  return {
    "image": image,
    "label": label,
    "classes": classes,
    "dropped_classes": np.zeros(2, np.int32),
  }


def ours() -> tuple[Callable[[], None], Callable[[], None]]:
  """(forward, training step) of this project."""
  mesh = mesh_lib.data_mesh()
  config = common.get_config()
  config.model.dtype, config.model.max_targets, config.train.steps = "float32", MAX_TARGETS, 1000
  architecture = build.build_architecture(config, num_classes=NUM_CLASSES)
  objective = build.build_objective(config, num_classes=NUM_CLASSES, ignore_label=255, mesh=mesh)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  state = train_step.init_state(objective, transform, 0, mesh)
  step = train_step.make_train_step(
    objective, transform, mesh, seed=0, log_every_steps=100, max_nonfinite_steps=0
  )
  image = jax.random.normal(jax.random.key(0), (1, 512, 512, 3))
  forward = jax.jit(architecture.predict)
  batch = mesh_lib.put_batch(example(), mesh)

  def run_forward():
    jax.block_until_ready(forward(state.params, state.stats, image))

  def run_step():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)

  return run_forward, run_step


def theirs() -> tuple[Callable[[], None], Callable[[], None]]:
  """(forward, training step) of the transformers package."""
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  torch.set_num_threads(os.cpu_count())
  stages = ["stage1", "stage2", "stage3", "stage4"]
  config = transformers.Mask2FormerConfig(
    backbone_config=transformers.ResNetConfig(out_features=stages), num_labels=NUM_CLASSES
  )
  model = transformers.Mask2FormerForUniversalSegmentation(config)
  update = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
  batch = example()
  pixels = torch.from_numpy(
    np.asarray(architectures.normalize(batch["image"])).transpose(0, 3, 1, 2).copy()
  )
  present = [np.unique(label) for label in batch["label"]]
  masks = [
    torch.from_numpy((label[None] == classes[:, None, None]).astype(np.float32))
    for label, classes in zip(batch["label"], present, strict=True)
  ]
  classes = [torch.from_numpy(c.astype(np.int64)) for c in present]
  image = torch.randn((1, 3, 512, 512))

  def run_forward():
    model.eval()
    with torch.no_grad():
      model(image, output_auxiliary_logits=False)

  def run_step():
    model.train()
    for module in model.modules():  # Frozen here too.
      if isinstance(module, torch.nn.BatchNorm2d):
        module.eval()
    model(pixels, mask_labels=masks, class_labels=classes).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    update.step()
    update.zero_grad()

  return run_forward, run_step


def _seconds(function: Callable[[], None]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def main() -> None:
  """Prints times and ratios; says what is missing where the packages are not installed."""
  try:
    pairs = zip(ours(), theirs(), strict=True)
  except ModuleNotFoundError as error:
    print(
      f"not compared with transformers, which needs {error.name}: pip install torch transformers"
    )
    return
  titles = ("Mask2Former R50, forward 1 x 512 x 512", "training step 2 x 256 x 256")
  for title, (mine, other) in zip(titles, pairs, strict=True):
    mine(), other()
    times = [(_seconds(mine), _seconds(other)) for _ in range(REPETITIONS)]
    here, there = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{title}: {here:.2f} s, transformers on torch: {there:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
  main()
