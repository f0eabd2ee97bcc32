"""EoMT here and in the `transformers` package (torch, CPU), side by side in one run.

python -m benchmarks.eomt        needs torch and transformers; 3 minutes on 2 cores

The size is that of DINOv2-S: 12 blocks of width 384, the last three with 100 queries; 150 classes,
float32, both with random weights, both on all cores. Forward without masks, and one training step
(loss at 12,544 points, gradient, clipping, AdamW) with every query masked, each on two images with
six classes.
"""

import os

import jax
import numpy as np

from benchmarks import side_by_side
from configs import ade20k
from ltss_jax import architectures

NUM_CLASSES, MAX_TARGETS, CLASSES_PER_IMAGE = 150, 8, 6
SIDE, BATCH = 128, 2
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


def image() -> jax.Array:
  """Normalised images [B, S, S, 3] of the batch."""
  return architectures.normalize(jax.numpy.asarray(example()["image"]))


def ours() -> side_by_side.Programs:
  """(forward, training step) of this project."""
  config = ade20k.get_config("model=eomt,backbone=dinov2_s")
  config.model.dtype, config.model.max_targets = "float32", MAX_TARGETS
  config.model.scan_blocks = False  # which makes compiling shorter and, on CPUs, steps longer
  config.data.crop_size, config.train.steps = SIDE, 1000
  return side_by_side.ours(config, NUM_CLASSES, image(), example())


def theirs() -> side_by_side.Programs:
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
  train_once = side_by_side.torch_step(model)
  pixels = torch.from_numpy(np.asarray(image()).transpose(0, 3, 1, 2).copy())
  targets = side_by_side.targets_in_torch(example())

  def run_forward():
    model.eval()
    model.attn_mask_probs.fill_(0)  # It would predict in front of every block otherwise.
    with torch.no_grad():
      model(pixels)

  def run_step():
    model.train()
    model.attn_mask_probs.fill_(1)
    train_once(pixels, targets)

  return run_forward, run_step


def main() -> None:
  """Prints times and ratios."""
  size = f"{BATCH} x {SIDE} x {SIDE}"
  titles = f"EoMT DINOv2-S, forward {size}", f"EoMT DINOv2-S, training step {size}"
  side_by_side.compare(titles, ours, theirs, REPETITIONS)


if __name__ == "__main__":
  main()
