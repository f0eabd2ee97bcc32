"""Compiles a complete training step for chips that are not there: does it fit, what does it move?

python -m benchmarks.aot_train_step --target=v5e --config=configs/coco_stuff_lt.py
python -m benchmarks.aot_train_step --target=h100 --config=configs/ade20k.py:backbone=swin_t

compile the recipe of any config file with its variants, its batch divided over the smallest named
slice of the TPU (four chips) or given to one H100, and print the memory that each device needs. The
first takes three minutes on two CPU cores. For a GPU, Mask2Former is matched by `optax`, as a host
callback cannot be compiled for one that is absent. Environments as for `python -m
kernels.ms_deform_attn.aot`, with this project's requirements beside: `make aot` makes them. With
`--config.mesh.fsdp=4` the four chips share one state. Fails where the step moves anything but sums,
and parameters of a shared state, between devices, or Mask2Former's misses a kernel.
"""

import time

import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from configs import flags as config_parsing
from input_pipeline import datasets
from kernels.ms_deform_attn import aot_gpu, aot_tpu
from ltss_jax import build, dataset as dataset_lib, mesh as mesh_lib, optimizer
from ltss_jax.training import run, train_step

# What compiled programs call for a Pallas kernel, on a TPU and on a GPU.
_KERNELS = ('"tpu_custom_call"', '"__gpu$xla.gpu.triton"')
_MOVES = ("all-gather", "all-to-all", "collective-permute")
# Matrix products by cuBLAS: without a card nothing is tuned, and what XLA takes untuned, its own
# kernels, cannot be built for some resizes (on a card those candidates are dropped).
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def lower(config: ml_collections.ConfigDict, devices) -> jax.stages.Lowered:
  """Lowers the training step of a config for a mesh of these devices."""
  table = datasets.find_spec(config.data.name).class_table
  if table is not None:  # the data need not be there
    metadata, train_stats = table.metadata, table.train_stats
  else:
    config, dataset = dataset_lib.prepare_run(config)
    metadata, train_stats = dataset.metadata, dataset.train_stats
  mesh = mesh_lib.data_mesh(devices, config.mesh.fsdp)
  run.check_batch_size(config, mesh)
  objective = build.build_objective(
    config,
    num_classes=metadata.num_classes,
    ignore_label=metadata.ignore_label,
    mesh=mesh,
    train_stats=train_stats,
  )
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )
  step = run.make_step_function(config, objective, transform, mesh)
  sharding, crop = mesh_lib.batch_sharding(mesh), config.data.crop_size
  shapes = {
    "image": ((crop, crop, 3), jnp.uint8),
    "label": ((crop, crop), jnp.uint8 if metadata.ignore_label < 256 else jnp.uint16),
  }
  if objective.max_targets:
    shapes["classes"] = ((objective.max_targets,), jnp.int32)
    shapes["dropped_classes"] = ((), jnp.int32)
  batch = {
    name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }
  decay = config.optimizer.ema_decay
  return step.lower(train_step.abstract_state(objective, transform, mesh, decay), batch)


def main(_) -> None:
  """Compiles for one target and prints what comes out."""
  target, config = flags.FLAGS.target, flags.FLAGS.config
  if target == "h100":
    devices, options = aot_gpu.topology().devices, _GPU_OPTIONS
    config.loss.matcher = "optax"
  else:
    devices, options = aot_tpu.topology(target).devices, None
  start = time.perf_counter()
  compiled = lower(config, devices).compile(options)
  seconds = time.perf_counter() - start
  program, memory = compiled.as_text(), compiled.memory_analysis()
  kernels = sum(program.count(name) for name in _KERNELS)
  print(
    f"{config_parsing.config_argument()}, batch {config.batch_size}, {len(devices)} x {target}:"
    f" compiled in {seconds:.0f} s"
  )
  print(f"  arguments {memory.argument_size_in_bytes / 2**30:.2f} GiB of each device")
  print(f"  temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB")
  print(f"  {kernels} calls of kernels, {program.count('all-reduce(')} all-reduces")
  moved = [move for move in _MOVES if move in program]
  if config.mesh.fsdp > 1 and "all-gather" in moved:
    moved.remove("all-gather")  # of the parameters
  if moved or (config.model.name == "mask2former" and not kernels):
    raise SystemExit(f"{target}: {kernels} kernels, operands moved by {moved}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "Config file and its variants.")
  flags.DEFINE_enum("target", None, [*aot_tpu.TOPOLOGIES, "h100"], "Chip to compile for.")
  flags.mark_flags_as_required(["config", "target"])
  app.run(main, flags_parser=config_parsing.parse_flags)
