"""Reads off the TPU compiler what a kernel costs, without a TPU: memory, traffic, static schedule.

The compiler, libtpu, writes each kernel's final schedule of VLIW bundles into a folder. The bundles
of a loop body times how often it runs, which is known from the tiles that the sampled points make
the kernel visit, are a lower bound of its time in cycles: waiting for the matrix unit and for
memory is not in it.
"""

import dataclasses
import math
import multiprocessing
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from kernels.ms_deform_attn import aot_programs, tpu_layout
from kernels.ms_deform_attn.api import IMPLEMENTATIONS
from kernels.ms_deform_attn.arg_specs import ArgSpec, make_arguments

# The smallest slice of each generation that has a name.
TOPOLOGIES = {
  "v4": "v4:2x2x1",
  "v5e": "v5e:2x2",
  "v5p": "v5p:2x2x1",
  "v6e": "v6e:2x2",
  "tpu7x": "tpu7x:2x2x1",
}

# Where XLA's gather is compiled for comparison; each takes the compiler a minute or more.
_GATHER_SHAPES = ("crop_512", "eval_512x688")

COLUMNS = (*aot_programs.COLUMNS, "VMEM KiB", "bundles, fresh", "spread 3", "all tiles", "error")

# What libtpu asks for on a machine without a TPU.
_ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Scheduled bundles of a kernel.

  Attributes:
    step: bundles of one grid step, without its inner loops.
    bodies: bundles of the inner loops, in the order of the program.
  """

  step: int
  bodies: tuple[int, ...]

  def total(self, steps: int, visits: Sequence[int]) -> int:
    """Bundles of the whole kernel: `steps` of the grid, `visits` of each loop body in all."""
    return self.step * steps + sum(a * b for a, b in zip(self.bodies, visits, strict=True))


def topology(target: str, dump: str | None = None) -> topologies.TopologyDescription:
  """Describes the chips of a target; to be called once, before anything uses a device.

  Args:
    target: a key of `TOPOLOGIES`, or a slice by its name, as "v5e:4x4".
    dump: folder into which the compiler writes its schedules.
  """
  os.environ.update(_ENVIRONMENT)
  if dump is not None:
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true"
  jax.config.update("jax_platforms", "cpu")
  return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES.get(target, target))


def rows(target: str, specs: dict[str, ArgSpec]) -> Iterator[aot_programs.Row]:
  """Compiles both passes for named shapes, for two of them the definition by XLA's gather as well.

  Args:
    target: a key of `TOPOLOGIES`.
    specs: shapes by name.

  Yields:
    For each program its figures, by the names of `COLUMNS`: `HBM MB`, what XLA counts as accessed,
    with the copies into the kernel's layout; `temporaries MB`; `VMEM KiB`, the buffers of the
    kernel; bundles of the kernel for the points of a fresh layer, for points that lie 3 pixels
    (standard deviation) off their query, and for all tiles; or `error`.
  """
  # In a process of its own: writing down the schedules of all its operations takes minutes.
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    for shape in filter(specs.get, _GATHER_SHAPES):
      yield from pool.submit(_gather_rows, target, shape, specs[shape]).result()
  with tempfile.TemporaryDirectory() as folder:
    dump = pathlib.Path(folder)
    device = topology(target, folder).devices[0]
    kernel = IMPLEMENTATIONS["pallas_tpu"]
    for shape, spec in specs.items():
      for dtype in ("bfloat16", "float32"):
        for row in _compiled("pallas_tpu", kernel, shape, spec, dtype, device):
          yield row if "error" in row else row | _kernel_figures(spec, dump)
          for path in dump.iterdir():
            path.unlink()


def _gather_rows(target: str, shape: str, spec: ArgSpec) -> list[aot_programs.Row]:
  device = topology(target).devices[0]
  gather = IMPLEMENTATIONS["reference"]
  return list(_compiled("gather by XLA", gather, shape, spec, "float32", device))


def _compiled(name, implementation, shape, spec, dtype, device) -> Iterator[aot_programs.Row]:
  """Compiles forward and backward of an implementation."""
  programs = aot_programs.programs(name, implementation, shape, spec, dtype, device)
  for row, function, arguments in programs:
    try:
      compiled = jax.jit(function).lower(*arguments).compile()
    except Exception as error:  # Whatever the compiler raises is the result.
      yield row | {"error": str(error).splitlines()[0]}
      continue
    row["HBM MB"] = compiled.cost_analysis()["bytes accessed"] / 1e6
    row["temporaries MB"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    yield row


def _kernel_figures(spec: ArgSpec, dump: pathlib.Path) -> dict[str, float]:
  """Reads the compiler's notes on the kernels of one program."""
  programs = list(dump.glob("*ms_deform_attn_*-post-delay-converter.txt"))
  bundles = list(dump.glob("*ms_deform_attn_*[0-9]-final_bundles.txt"))
  figures = {"VMEM KiB": max(vmem_bytes(path.read_text()) for path in programs) / 2**10}
  if len(bundles) > 1:  # The schedule of one of several bands says little.
    return figures
  schedule = read_schedule(bundles[0].read_text())
  return figures | {
    "bundles, fresh": schedule.total(*_visits(spec, spread=None)),
    "spread 3": schedule.total(*_visits(spec, spread=3.0)),
    "all tiles": schedule.total(*_visits(spec, spread=None, everything=True)),
  }


def _visits(spec: ArgSpec, spread: float | None, everything: bool = False) -> tuple[int, list[int]]:
  """Grid steps, and how many tiles of each level they visit in all."""
  value, locations, weights = make_arguments(spec, spread=spread)
  bands = [tpu_layout.Band(i, 0, *size) for i, size in enumerate(spec.spatial_shapes)]
  with jax.default_device(jax.devices("cpu")[0]):
    samples = tpu_layout.Samples(jnp.asarray(value), spec.spatial_shapes, locations, weights)
    steps = math.prod(samples.grid["grid"])
    if everything:
      return steps, [steps * band.tiles for band in bands]
    ranges = np.asarray(samples.ranges(bands)).reshape(-1, len(bands), 2)
  return steps, np.maximum(ranges[..., 1] - ranges[..., 0], 0).sum(0).tolist()


def vmem_bytes(program: str) -> int:
  """Adds up what a kernel allocates in VMEM, from the compiler's text of it."""
  sizes = re.findall(r"space=vmem, size = (0x[0-9a-f]+)", program)
  return sum(int(size, 16) for size in sizes)


def read_schedule(program: str) -> Schedule:
  """Counts the bundles of a kernel's loops, from the compiler's text of its final schedule.

  A line is a bundle: its address, a label at the head of a loop (LB), one ">" for each loop that it
  is in, and its instructions. The grid is the outer loop.
  """
  step, bodies = 0, []
  for line in program.splitlines():
    bundle = re.match(r" *(?:0x[0-9a-f]+|0) +(\w\w)? *: (>*)", line)
    depth = len(bundle[2]) if bundle else 0
    if depth == 1:
      step += 1
    elif depth == 2:
      if bundle[1] == "LB":
        bodies.append(0)
      bodies[-1] += 1
  return Schedule(step, tuple(bodies))
