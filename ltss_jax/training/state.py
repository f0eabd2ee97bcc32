"""The train state: nested dicts of arrays only, so that jit, optax and Orbax all take it."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from ltss_jax import mesh as mesh_lib

# Small, and every device computes with all of them: they are not divided.
_WHOLE = ("stats/", "ema/stats/")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a training step reads and writes.

  Attributes:
    step: int32 scalar, number of updates done.
    params: parameters, float32, those that training leaves as they are among them.
    stats: counted and not trained values, float32: running means and variances of batch norms
      (constants where they are frozen), samples of every class for the Seesaw loss.
    opt_state: state of the optax transformation, of the parameters that are trained.
    ema: {"params": exponential moving averages of the trained parameters, "stats": of stats}, {}
      where none are kept. Training does not read them.
    metric_sums: {"loss term": float32 scalar}, sums since the last log step. They are part of the
      state so that a resumed run logs what an uninterrupted one logs.
    skipped_in_a_row: int32 scalar, number of the last steps that changed nothing because their loss
      or gradient was not finite.
    diverged_step: int32 scalar, the step at which more than the permitted number were skipped in a
      row; 0 if that never happened.
  """

  step: jax.Array
  params: Any
  stats: Any
  opt_state: Any
  ema: dict[str, Any]
  metric_sums: dict[str, jax.Array]
  skipped_in_a_row: jax.Array
  diverged_step: jax.Array

  @property
  def inference_weights(self) -> tuple[Any, Any]:
    """(params, stats) to evaluate and predict with: the averages where they are kept."""
    ema = self.ema or {"params": {}, "stats": {}}
    return self.params | ema["params"], self.stats | ema["stats"]


def shardings(state: TrainState, mesh: Mesh) -> TrainState:
  """How a state lies on a mesh: each array divided as `mesh.state_sharding` says, statistics whole.

  Args:
    state: arrays or their shapes.
    mesh: result of `mesh.data_mesh`.
  """

  def sharding(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.startswith(_WHOLE):
      return mesh_lib.replicated(mesh)
    return mesh_lib.state_sharding(leaf.shape, mesh)

  return jax.tree_util.tree_map_with_path(sharding, state)
