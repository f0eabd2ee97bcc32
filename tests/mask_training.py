"""Trainings of models of masks that tests compare."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from ltss_jax import mesh as mesh_lib
from ltss_jax.training import train_step
from tests.mask_batches import batch


def three_steps(with_methods: Callable[[int], tuple], transform: optax.GradientTransformation):
  """Trains from one state on one device and on four.

  Args:
    with_methods: number of devices -> (mesh, objective, step).
    transform: optimizer of the step.

  Returns:
    {number of devices: (mesh, objective, step, state after three steps, each step's terms)}.
  """
  results, fresh = {}, None
  for devices in (1, 4):
    mesh, model, step = with_methods(devices)
    if fresh is None:
      fresh = jax.device_get(train_step.init_state(model, transform, 0, mesh))
    state = jax.device_put(fresh, mesh_lib.replicated(mesh))
    terms = []
    for _ in range(3):
      state, outputs = step(state, mesh_lib.put_batch(batch(), mesh))
      terms.append(jax.device_get(outputs["sums"]))
    results[devices] = mesh, model, step, state, terms
  return results


def assert_only_rounding(plain: Any, recomputed: Any, half: Any) -> None:
  """Compares (loss, gradients): with recomputation in float32, and in bfloat16."""
  # The same operations, fused in another way.
  np.testing.assert_allclose(recomputed[0], plain[0], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * (1 + np.abs(b).max())),
    recomputed[1],
    plain[1],
  )
  # 8 bits of mantissa through all layers; masks of logits near 0 may be others.
  np.testing.assert_allclose(half[0], plain[0], rtol=0.1)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(half[1]))
