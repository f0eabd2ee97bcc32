"""What checking contents costs a checkpoint: `python -m benchmarks.checkpoints`, two minutes.

The train state of Mask2Former R50 with 171 classes is saved and restored on the local disk, in
turns with Orbax alone, so that the ratios also mean something on a shared machine.
"""

import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import app, logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from configs import coco_stuff_lt
from ltss_jax import build, mesh as mesh_lib, optimizer
from ltss_jax.checkpoint import loading
from ltss_jax.checkpoint.contents import Contents

_ROUNDS = 8


def train_state() -> dict[str, Any]:
  """Parameters and optimizer state, of random numbers, which do not compress."""
  config = coco_stuff_lt.get_config()
  params, stats = jax.eval_shape(
    build.model_functions(config, 171).init, jax.eval_shape(lambda: jax.random.key(0))
  )
  recipe = build.optimizer_config(config)
  transform = optimizer.make_optimizer(recipe, lambda path: True, lambda path: 0)
  state = {"params": params, "stats": stats, "optimizer": jax.eval_shape(transform.init, params)}
  rng = np.random.default_rng(0)
  state = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32).astype(x.dtype), state)
  return jax.device_put(state, mesh_lib.replicated(mesh_lib.data_mesh()))


def _print(what: str, times: dict[str, list[tuple[float, float]]]) -> None:
  """Prints the medians of both and the median ratio, of wall and of CPU seconds."""
  plain, checked = np.array(times["plain"]), np.array(times["checked"])
  ratio = np.median(checked / plain, axis=0)
  print(
    f"{what}: Orbax alone {np.median(plain[:, 0]):.2f} s ({np.median(plain[:, 1]):.2f} s of CPU),"
    f" with contents {np.median(checked[:, 0]):.2f} s ({np.median(checked[:, 1]):.2f} s), ratios"
    f" {ratio[0]:.3f} ({ratio[1]:.3f})"
  )


def main(argv: list[str]) -> None:
  """Saves and restores in turns."""
  del argv
  logging.set_verbosity(logging.ERROR)  # Orbax tells all it does
  state = train_state()
  leaves = jax.tree.leaves(state)
  print(f"{len(leaves)} arrays, {sum(leaf.nbytes for leaf in leaves) / 1e6:.0f} MB")
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  blocked, saves, restores = ({"plain": [], "checked": []} for _ in range(3))
  for i in range(_ROUNDS):
    with tempfile.TemporaryDirectory() as folder:
      order = ("plain", "checked") if i % 2 else ("checked", "plain")
      for kind in order:
        items = {loading.STATE: state}
        if kind == "checked":
          items[loading.CONTENTS] = Contents(state, {})
        wall, cpu = time.perf_counter(), time.process_time()
        response = ocp.save_checkpointables_async(pathlib.Path(folder) / kind, items)
        blocked[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
        response.result()
        saves[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
      for kind in order:
        path, items = epath.Path(folder) / kind, {loading.STATE: abstract}
        wall, cpu = time.perf_counter(), time.process_time()
        if kind == "checked":
          loaded = loading.load(path, "the benchmark's checkpoint", items)
        else:
          loaded = ocp.load_checkpointables(path, items)
        jax.block_until_ready(loaded)
        restores[kind].append((time.perf_counter() - wall, time.process_time() - cpu))
  _print("until training goes on", blocked)
  _print("save", saves)
  _print("restore", restores)


if __name__ == "__main__":
  app.run(main)
