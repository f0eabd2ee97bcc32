"""EoMT here and in the `transformers` package (torch, CPU), side by side in one run.

python -m benchmarks.eomt        needs torch and transformers; 3 minutes on 2 cores

The size is that of DINOv2-S: 12 blocks of width 384, the last three with 100 queries; 150 classes,
float32, both with random weights, both on all cores. Forward without masks, and one training step
(loss at 12,544 points, gradient, clipping, AdamW) with every query masked, each on two images with
six classes.
"""

import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from configs import ade20k
from ltss_jax import architectures, build, mesh as mesh_lib, optimizer
from ltss_jax.training import train_step

NUM_CLASSES, MAX_TARGETS, CLASSES_PER_IMAGE = 150, 8, 6
SIDE, BATCH = 224, 2
REPETITIONS = 9


def example() -> dict[str, np.ndarray]:
  """A training batch: crops with six rectangles of different classes each."""
  rng = np.random.default_rng(0)
  rows, columns = np.arange(SIDE) * 2 // SIDE, np.arange(SIDE) * 3 // SIDE
  part = 3 * rows[:, None] + columns  # [S, S], 0 to 5
  present = [rng.choice(NUM_CLASSES, CLASSES_PER_IMAGE, replace=False) for _ in range(BATCH)]
  classes = np.full((BATCH, MAX_TARGETS), -1, np.int32)
  classes[:, :CLASSES_PER_IMAGE] = np.sort(present)
  return {
    "image": rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8),
    "label": np.stack([names[part] for names in present]).astype(np.uint8),
    "classes": classes,
    "dropped_classes": np.zeros(BATCH, np.int32),
  }


def ours() -> tuple[Callable[[], None], Callable[[], None]]:
  """(forward, training step) of this project."""
  mesh = mesh_lib.data_mesh()
  config = ade20k.get_config("model=eomt,backbone=dinov2_s")
  config.model.dtype, config.model.max_targets = "float32", MAX_TARGETS
  config.data.crop_size, config.train.steps = SIDE, 1000
  architecture = build.build_architecture(config, num_classes=NUM_CLASSES)
  objective = build.build_objective(config, num_classes=NUM_CLASSES, ignore_label=255, mesh=mesh)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  state = train_step.init_state(objective, transform, 0, mesh)
  step = train_step.make_train_step(
    objective, transform, mesh, seed=0, log_every_steps=100, max_nonfinite_steps=0
  )
  forward = jax.jit(architecture.predict)
  batch = mesh_lib.put_batch(example(), mesh)
  image = architectures.normalize(batch["image"])

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
  config = transformers.EomtConfig(
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=6,
    image_size=SIDE,
    num_blocks=3,
    num_queries=100,
    num_labels=NUM_CLASSES,
  )
  model = transformers.EomtForUniversalSegmentation(config)
  update = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
  batch = example()
  image = np.asarray(architectures.normalize(batch["image"])).transpose(0, 3, 1, 2)
  image = torch.from_numpy(image.copy())
  present = [row[row >= 0] for row in batch["classes"]]
  masks = [
    torch.from_numpy((label[None] == classes[:, None, None]).astype(np.float32))
    for label, classes in zip(batch["label"], present, strict=True)
  ]
  classes = [torch.from_numpy(row.astype(np.int64)) for row in present]

  def run_forward():
    model.eval()
    model.attn_mask_probs.fill_(0)  # It would predict in front of every block otherwise.
    with torch.no_grad():
      model(image)

  def run_step():
    model.train()
    model.attn_mask_probs.fill_(1)
    model(image, mask_labels=masks, class_labels=classes).loss.backward()
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
  size = f"{BATCH} x {SIDE} x {SIDE}"
  titles = (f"EoMT DINOv2-S, forward {size}", f"training step {size}")
  for title, (mine, other) in zip(titles, pairs, strict=True):
    first, others_first = _seconds(mine), _seconds(other)
    mine(), other()
    times = [(_seconds(mine), _seconds(other)) for _ in range(REPETITIONS)]
    here, there = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(
      f"{title}: {here:.2f} s, transformers on torch: {there:.2f} s, ratio {ratio:.2f}; the first"
      f" one {first:.1f} s (compilation), there {others_first:.1f} s"
    )


if __name__ == "__main__":
  main()
