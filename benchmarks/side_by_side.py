"""A model of this project and one of the `transformers` package, timed in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from ltss_jax import build, mesh as mesh_lib, optimizer
from ltss_jax.training import train_step

# A forward pass and a training step.
Programs = tuple[Callable[[], None], Callable[[], None]]


def ours(
  config: ml_collections.ConfigDict,
  num_classes: int,
  image: jax.Array,
  batch: dict[str, np.ndarray],
) -> Programs:
  """Forward and training step of the model that a config describes.

  Args:
    config: resolved config.
    num_classes: C.
    image: [B, H, W, 3] float32, normalised, for the forward pass.
    batch: for the training step.
  """
  mesh = mesh_lib.data_mesh()
  architecture = build.build_architecture(config, num_classes=num_classes)
  objective = build.build_objective(config, num_classes=num_classes, ignore_label=255, mesh=mesh)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  state = train_step.init_state(objective, transform, 0, mesh)
  step = train_step.make_train_step(
    objective, transform, mesh, seed=0, log_every_steps=100, max_nonfinite_steps=0
  )
  forward = jax.jit(architecture.predict)
  batch = mesh_lib.put_batch(batch, mesh)

  def run_forward():
    jax.block_until_ready(forward(state.params, state.stats, image))

  def run_step():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)

  return run_forward, run_step


def targets_in_torch(batch: dict[str, np.ndarray]) -> dict[str, list]:
  """The arguments of a transformers model that make it return a loss."""
  import torch

  present = [row[row >= 0] for row in batch["classes"]]
  masks = [
    torch.from_numpy((label[None] == classes[:, None, None]).astype(np.float32))
    for label, classes in zip(batch["label"], present, strict=True)
  ]
  return {
    "mask_labels": masks,
    "class_labels": [torch.from_numpy(row.astype(np.int64)) for row in present],
  }


def torch_step(model: Any) -> Callable[[Any, dict[str, list]], None]:
  """An update of a transformers model by AdamW, clipped as Mask2Former and EoMT are.

  Args:
    model: in training mode where the update is called.

  Returns:
    Function of (pixels [B, 3, H, W], result of `targets_in_torch`).
  """
  import torch

  update = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)

  def train_once(pixels, targets):
    model(pixels, **targets).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    update.step()
    update.zero_grad()

  return train_once


def _seconds(function: Callable[[], None]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def compare(
  titles: Sequence[str],
  make_ours: Callable[[], Programs],
  make_theirs: Callable[[], Programs],
  repetitions: int,
) -> None:
  """Prints times and ratios; says what is missing where the packages are not installed."""
  try:
    theirs = make_theirs()
  except ModuleNotFoundError as error:
    print(
      f"not compared with transformers, which needs {error.name}: pip install torch transformers"
    )
    return
  for title, mine, other in zip(titles, make_ours(), theirs, strict=True):
    first, others_first = _seconds(mine), _seconds(other)
    times = [(_seconds(mine), _seconds(other)) for _ in range(repetitions)]
    here, there = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(
      f"{title}: {here:.2f} s, transformers on torch: {there:.2f} s, ratio {ratio:.2f}; the first"
      f" time, with compilation: {first:.1f} s, there {others_first:.1f} s"
    )
