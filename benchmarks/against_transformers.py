"""Mask2Former R50 here and in the `transformers` package (torch, CPU), side by side in one run.

python -m benchmarks.against_transformers        needs torch and transformers; 3 minutes on 2 cores

Forward of one image of 512 x 512, and one training step (loss, gradient, clipping, AdamW) on two
crops of 256 x 256 with six classes each; 171 classes, 100 queries, float32, both with random
weights, both on all cores.
"""

import os

import jax
import numpy as np

from benchmarks import side_by_side
from configs import common
from ltss_jax import architectures

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


def ours() -> side_by_side.Programs:
  """(forward, training step) of this project."""
  config = common.get_config()
  config.model.dtype, config.model.max_targets, config.train.steps = "float32", MAX_TARGETS, 1000
  image = jax.random.normal(jax.random.key(0), (1, 512, 512, 3))
  return side_by_side.ours(config, NUM_CLASSES, image, example())


def theirs() -> side_by_side.Programs:
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
  train_once = side_by_side.torch_step(model)
  batch = example()
  pixels = torch.from_numpy(
    np.asarray(architectures.normalize(batch["image"])).transpose(0, 3, 1, 2).copy()
  )
  targets = side_by_side.targets_in_torch(batch)
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
    train_once(pixels, targets)

  return run_forward, run_step


def main() -> None:
  """Prints times and ratios."""
  titles = "Mask2Former R50, forward 1 x 512 x 512", "training step 2 x 256 x 256"
  side_by_side.compare(titles, ours, theirs, REPETITIONS)


if __name__ == "__main__":
  main()
