"""Compiles a complete Mask2Former training step for chips that are not there.

`python -m benchmarks.aot_train_step v5e` compiles the R50 recipe of COCO-Stuff-LT, 16 crops of 512,
for four TPU v5e with scipy's matching as a host callback (3 minutes on two CPU cores); `h100` the
same for one H100 with 4 images and `optax` matching, as a callback cannot be compiled for a GPU
that is absent. Environments as for `python -m kernels.ms_deform_attn.aot`, with this project's
requirements beside: `make aot` makes them. Prints the memory that each device needs, and fails
where the step moves anything but sums between devices, or misses a kernel.
"""

import sys
import time

import jax
import jax.numpy as jnp

from configs import coco_stuff_lt
from kernels.ms_deform_attn import aot_gpu, aot_tpu
from ltss_jax import build, mesh as mesh_lib, optimizer, train_step

NUM_CLASSES, IGNORE_LABEL = 171, 255
# What the compiled program calls for a Pallas kernel.
_KERNELS = {"v5e": '"tpu_custom_call"', "h100": '"__gpu$xla.gpu.triton"'}
_GATHERS = ("all-gather", "all-to-all", "collective-permute")


def lower(devices, *, batch_size: int, matcher: str) -> jax.stages.Lowered:
  """Lowers the training step of the recipe for a mesh of these devices."""
  config = coco_stuff_lt.get_config()
  config.batch_size, config.loss.matcher = batch_size, matcher
  mesh = mesh_lib.data_mesh(devices)
  architecture = build.build_architecture(
    config, num_classes=NUM_CLASSES, ignore_label=IGNORE_LABEL, mesh=mesh
  )
  transform = optimizer.make_optimizer(build.optimizer_config(config), architecture.decays)
  step = train_step.make_train_step(
    architecture, transform, mesh, seed=config.seed, log_every_steps=config.train.log_every_steps
  )
  sharding, crop = mesh_lib.batch_sharding(mesh), config.data.crop_size
  shapes = {
    "image": ((crop, crop, 3), jnp.uint8),
    "label": ((crop, crop), jnp.uint8),
    "classes": ((architecture.max_targets,), jnp.int32),
    "dropped_classes": ((), jnp.int32),
  }
  batch = {
    name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }
  return step.lower(train_step.abstract_state(architecture, transform, mesh), batch)


def main(target: str) -> None:
  """Compiles for one target and prints what comes out."""
  if target == "v5e":
    devices, options = aot_tpu.topology(target).devices, {"batch_size": 16, "matcher": "scipy"}
  elif target == "h100":
    devices, options = aot_gpu.topology().devices, {"batch_size": 4, "matcher": "optax"}
  else:
    raise SystemExit(f"no target {target!r}; choose from {sorted(_KERNELS)}")
  start = time.perf_counter()
  compiled = lower(devices, **options).compile()
  seconds = time.perf_counter() - start
  program, memory = compiled.as_text(), compiled.memory_analysis()
  kernels = program.count(_KERNELS[target])
  print(f"{target}, {len(devices)} device(s), {options}: compiled in {seconds:.0f} s")
  print(f"  arguments {memory.argument_size_in_bytes / 2**30:.2f} GiB of each device")
  print(f"  temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB")
  print(f"  {kernels} calls of kernels, {program.count('all-reduce(')} all-reduces")
  moved = [move for move in _GATHERS if move in program]
  if moved or not kernels:
    raise SystemExit(f"{target}: {kernels} kernels, operands moved by {moved}")


if __name__ == "__main__":
  main(*sys.argv[1:2] or [""])
