"""Training batches that models of masks learn quickly."""

import numpy as np

NUM_CLASSES = 5


def batch(size: int = 8, side: int = 64) -> dict[str, np.ndarray]:
  """Images whose colour tells the class, three classes each at most, and ignored pixels."""
  rng = np.random.default_rng(0)
  colors = np.array([[30, 30, 30], [220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40]])
  label = np.zeros((size, side, side), np.uint8)
  for row in label:
    for c in rng.choice(np.arange(1, NUM_CLASSES), 2, replace=False):
      y, x = rng.integers(0, side - 24, 2)
      row[y : y + 24, x : x + 24] = c
  image = np.clip(colors[label] + rng.normal(0, 8, (*label.shape, 3)), 0, 255).astype(np.uint8)
  label[:, :3] = 255
  classes = np.full((size, 4), -1, np.int32)
  for row, present in zip(classes, map(np.unique, label), strict=True):
    row[: len(present) - 1] = present[:-1]
  dropped = np.zeros(size, np.int32)
  return {"image": image, "label": label, "classes": classes, "dropped_classes": dropped}


def empty_batch() -> dict[str, np.ndarray]:
  """The same images without any target."""
  data = batch()
  return data | {"label": np.full_like(data["label"], 255), "classes": data["classes"] * 0 - 1}
