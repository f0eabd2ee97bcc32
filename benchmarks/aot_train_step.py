r"""Compiles a complete training step for chips that are not there: does it fit, what bounds it?

python -m benchmarks.aot_train_step --target=v5e --config=configs/coco_stuff_lt.py
python -m benchmarks.aot_train_step --target=v5e:16x16 \
  --config=configs/ade20k.py:model=eomt,backbone=dinov3_l --config.batch_size=256 \
  --config.mesh.fsdp=16
python -m benchmarks.aot_train_step --target=h100 --config=configs/ade20k.py:backbone=swin_t

compile the recipe of any config file with its variants, its batch divided over a slice of TPUs (the
smallest named one, four chips, where none is given) or given to one H100, and print: the memory
that each device needs; what it sends to others, by kind of operation; the operations of its matrix
products, the bytes that its memory moves, and how long each of these takes at the chip's peak. The
longest bounds the step: a lower bound of its time, which nobody measured. For a GPU, masks are
matched by `optax`, as a host callback cannot be compiled for one that is absent. Environments as
for `python -m kernels.ms_deform_attn.aot`, with this project's requirements beside: `make aot`
makes them. Fails where the program does not fit, where the step moves anything but sums, and
parameters of a shared state, between devices, or where Mask2Former's misses a kernel.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from benchmarks import chips
from benchmarks.compiled import Program
from benchmarks.matrix_flops import matrix_flops
from configs import flags as config_parsing
from input_pipeline import datasets
from kernels.ms_deform_attn import aot_gpu, aot_tpu
from ltss_jax import build, dataset as dataset_lib, mesh as mesh_lib, optimizer
from ltss_jax.training import run, train_step

# What compiled programs call for a Pallas kernel, on a TPU and on a GPU.
_KERNELS = ('"tpu_custom_call"', '"__gpu$xla.gpu.triton"')
# What a step may send: sums, and of a divided state the parameters that all need and the parts of
# sums that each keeps, where TPUs pass chunks round while they compute.
_SUMS = {"all-reduce"}
_OF_STATE = {"all-gather", "reduce-scatter", "collective-permute"}
# Matrix products by cuBLAS: without a card nothing is tuned, and what XLA takes untuned, its own
# kernels, cannot be built for some resizes (on a card those candidates are dropped).
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def trace(config: ml_collections.ConfigDict, devices) -> jax.stages.Traced:
  """Traces the training step of a config for a mesh of these devices."""
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
  return step.trace(train_step.abstract_state(objective, transform, mesh, decay), batch)


@dataclasses.dataclass(frozen=True)
class Target:
  """What to compile for.

  Attributes:
    name: of the chip.
    topology: sides of the slice.
    devices: its devices, which are not there.
    options: for the compiler.
  """

  name: str
  topology: str
  devices: Sequence[jax.Device]
  options: dict[str, bool] | None


def find_target(target: str, config: ml_collections.ConfigDict) -> Target:
  """Finds a target by its name; for a GPU, the config's matcher becomes one that can be compiled.

  Raises:
    SystemExit: there is no such target.
  """
  name, _, topology = target.partition(":")
  if name == "h100":
    config.loss.matcher = "optax"
    return Target(name, "1x1x1", aot_gpu.topology().devices, _GPU_OPTIONS)
  if name not in aot_tpu.TOPOLOGIES:
    raise SystemExit(f"--target={name}: choose from {', '.join(aot_tpu.TOPOLOGIES)}, h100")
  topology = topology or aot_tpu.TOPOLOGIES[name].partition(":")[2]
  return Target(name, topology, aot_tpu.topology(f"{name}:{topology}").devices, None)


def run_command(main: Callable) -> None:
  """Runs a command that has --config and --target."""
  config_flags.DEFINE_config_file("config", None, "Config file and its variants.")
  flags.DEFINE_string("target", None, "Chip to compile for, or a slice of such: v5e:16x16.")
  flags.mark_flags_as_required(["config", "target"])
  app.run(main, flags_parser=config_parsing.parse_flags)


def bytes_accessed(compiled: jax.stages.Compiled, program: Program) -> float:
  """What memory moves, as the compiler counts it, or where it does not by the program's text."""
  return (compiled.cost_analysis() or {}).get("bytes accessed") or program.memory_bytes()


def main(_) -> None:
  """Compiles for one target and prints what comes out."""
  config = flags.FLAGS.config
  target = find_target(flags.FLAGS.target, config)
  name, topology, devices = target.name, target.topology, target.devices
  print(
    f"{config_parsing.config_argument()}, batch {config.batch_size}, {name} {topology}, state over"
    f" {config.mesh.fsdp}, remat {config.model.remat}, freeze_backbone"
    f" {config.model.freeze_backbone}, grad_accumulation {config.train.grad_accumulation}",
    flush=True,
  )
  start = time.perf_counter()
  traced = trace(config, devices)
  flops = matrix_flops(traced.jaxpr.jaxpr, len(devices)) / len(devices)
  try:
    compiled = traced.lower().compile(target.options)
  except jax.errors.JaxRuntimeError as error:  # More memory than there is, as a rule.
    raise SystemExit(f"  does not compile: {_reason(error)}") from None
  print(f"  compiled in {time.perf_counter() - start:.0f} s")
  text = compiled.as_text()
  program = Program(text)
  sent = program.collectives(len(devices))
  _print_memory(compiled.memory_analysis())
  for kind, total in sent.items():
    print(f"  {kind}: {total.count} times, {total.sent / 1e9:.3f} GB sent by each")
  memory = bytes_accessed(compiled, program)
  _print_bounds(name, topology, flops, memory, sum(total.sent for total in sent.values()))
  kernels = sum(text.count(name) for name in _KERNELS)
  print(f"  {kernels} calls of kernels")
  print(f"  at most {program.most_gathered():,} slices in a gather or scatter")
  moved = set(sent) - (_SUMS | _OF_STATE if config.mesh.fsdp > 1 else _SUMS)
  if moved or (config.model.name == "mask2former" and not kernels):
    raise SystemExit(f"{name}: {kernels} kernels, operands moved by {sorted(moved)}")


def _reason(error: jax.errors.JaxRuntimeError) -> str:
  """What the compiler says of memory, else its first line."""
  used = re.search(r"Used [\d.]+\w of [\d.]+\w \w+", str(error))
  return used[0] if used else str(error).splitlines()[0]


def _print_memory(memory: Any) -> None:
  """The state is an argument, and its successor takes its place."""
  parts = {
    "arguments": memory.argument_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "results in places of their own": memory.output_size_in_bytes - memory.alias_size_in_bytes,
  }
  listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
  print(f"  GiB of each device: {sum(parts.values()) / 2**30:.2f} ({listed})")


def _print_bounds(name: str, topology: str, flops: float, memory: float, sent: float) -> None:
  print(f"  each: {flops / 1e12:.2f} TFLOP of matrix products, {memory / 1e9:.1f} GB of memory")
  if name not in chips.CHIPS:
    return
  times = chips.milliseconds(chips.CHIPS[name], topology, flops=flops, memory=memory, sent=sent)
  listed = ", ".join(f"{what} {time:.1f}" for what, time in times.items())
  longest = max(times, key=times.get)
  share = 100 * times["matrix products"] / times[longest]
  print(f"  ms at the chip's peaks: {listed}")
  print(f"  bound by {longest}: at most {share:.0f} % of the peak of matrix products")


if __name__ == "__main__":
  run_command(main)
