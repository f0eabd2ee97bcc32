"""Reads off the GPU compilers what the kernels need on an H100, without one: memory, registers."""

import contextlib
import importlib.util
import math
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import jax
from jax.experimental import topologies

from kernels.ms_deform_attn import aot_programs
from kernels.ms_deform_attn.api import IMPLEMENTATIONS
from kernels.ms_deform_attn.arg_specs import ArgSpec

COLUMNS = (*aot_programs.COLUMNS, "kernels", "shared memory", "registers", "spilled", "error")
_TARGET = pathlib.Path(__file__).with_name("h100.txtpb")


def topology() -> topologies.TopologyDescription:
  """Describes one H100; to be called once, before anything uses a device."""
  jax.config.update("jax_platforms", "cpu")
  return topologies.get_topology_desc(
    platform="cuda", topology_name="", target_config=_TARGET.read_text(), topology="1x1x1"
  )


def lowering() -> contextlib.AbstractContextManager:
  """Within it, programs with kernels are traced and lowered for an H100 that is not there.

  Newer releases of JAX (0.12) lower a Triton kernel only where they know for which GPU.
  """
  gpu = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu))


def rows(specs: dict[str, ArgSpec]) -> Iterator[aot_programs.Row]:
  """Compiles both passes for named shapes: the kernels, and the plain XLA implementation.

  Args:
    specs: shapes by name.

  Yields:
    For each program its figures, by the names of `COLUMNS`: `HBM MB`, what the kernels read and
    write when each array passes once for each kernel that has it as operand or result (gathers and
    atomic additions beyond that stay in the caches; unknown for "xla", whose loops gather: XLA
    counts no bytes for an absent GPU); `temporaries MB`; `kernels`, how many are in the program,
    loop bodies counted once; `shared memory`, the most bytes of a thread block; `registers`, the
    most of a thread, and `spilled`, bytes of all kernels, both unknown without NVIDIA's `ptxas`; or
    `error`.
  """
  device = topology().devices[0]
  for shape, spec in specs.items():
    for dtype in ("bfloat16", "float32"):
      for name in ("pallas_gpu", "xla"):
        if name not in IMPLEMENTATIONS:  # a JAX without that backend
          continue
        programs = aot_programs.programs(name, IMPLEMENTATIONS[name], shape, spec, dtype, device)
        for row, function, arguments in programs:
          yield row | _figures(function, arguments, pallas=name == "pallas_gpu")


def _figures(function: Callable, arguments, *, pallas: bool) -> dict[str, object]:
  """Compiles one function; returns the row's figures."""
  with tempfile.TemporaryDirectory() as folder:
    try:
      with lowering():
        lowered = jax.jit(function).lower(*arguments)
      # Newer compilers dump what the emitters make, PTX among it, only where it is asked for.
      options = {"xla_dump_to": folder, "xla_dump_emitter_re": ".*"}
      compiled = lowered.compile(compiler_options=options)
    except Exception as error:  # Whatever the compilers raise is the result.
      return {"error": str(error).splitlines()[0]}
    figures = _launches(pathlib.Path(folder)) | _assembled(pathlib.Path(folder))
  figures["temporaries MB"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
  if pallas:
    figures["HBM MB"] = _operand_bytes(jax.make_jaxpr(function)(*arguments).jaxpr) / 1e6
  return figures


def _operand_bytes(jaxpr) -> int:
  """Returns the bytes of operands and results of all operations that move data."""

  def size(variables):
    avals = (variable.aval for variable in variables)
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals if aval.shape)

  equations = [equation for equation in jaxpr.eqns if equation.primitive.name != "reshape"]
  return sum(size(equation.invars) + size(equation.outvars) for equation in equations)


def _launches(folder: pathlib.Path) -> dict[str, int]:
  """Returns number and shared memory of the kernels in XLA's dump of the program."""
  (path,) = folder.glob("*.thunk_sequence.txt")
  # Launches are numbered; those in command buffers may be listed twice.
  pattern = r"^ *(\d+): kCustomKernel .* shared_memory: (\d+) bytes"
  memory = dict(re.findall(pattern, path.read_text(), re.MULTILINE))
  return {"kernels": len(memory), "shared memory": max(map(int, memory.values()))}


def _assembled(folder: pathlib.Path) -> dict[str, int]:
  """Returns registers and spilled bytes of the kernels in the dump; nothing without `ptxas`."""
  package = importlib.util.find_spec("nvidia")
  places = package.submodule_search_locations if package else ()
  assembler = next(
    (path for place in places for path in pathlib.Path(place).glob("*/bin/ptxas")), None
  )
  if assembler is None:
    return {}
  registers, spills = [], []
  for path in folder.glob("*.ptx"):
    target = re.search(r"^\.target (\w+)", path.read_text(), re.MULTILINE)
    if not target:  # A module without kernels.
      continue
    command = [assembler, "-v", f"-arch={target[1]}", path, "-o", folder / "out.cubin"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers += map(int, re.findall(r"Used (\d+) registers", report))
    spills += map(int, re.findall(r"(\d+) bytes spill", report))
  return {"registers": max(registers), "spilled": sum(spills)}
