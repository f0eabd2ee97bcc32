"""Compiles deformable attention for a chip that is not there, and prints what its compiler says.

`python -m kernels.ms_deform_attn.aot TARGET [names of ARG_SPECS]` prints a table of all programs,
or of those for the named shapes. TARGET is a TPU (v4, v5e, v5p, v6e, tpu7x), which needs `libtpu`
installed, or h100, which needs `jax[cuda13]`, each in an environment of its own: `make aot` makes
both and runs v5e and h100. It proves that the kernels compile to machine code within the chip's
memory; results are the tests' business, and times need the chip. Exits with 1 if a program does not
compile.
"""

import importlib.util
import sys
from collections.abc import Iterable, Sequence

from kernels.ms_deform_attn import aot_gpu, aot_tpu
from kernels.ms_deform_attn.arg_specs import ARG_SPECS, select

TARGETS = (*aot_tpu.TOPOLOGIES, "h100")
_WIDTH = 14


def print_table(columns: Sequence[str], rows: Iterable[dict[str, object]]) -> bool:
  """Prints rows, by the names of their columns, as they come; returns whether none has an error."""
  print("  ".join(f"{column:{_WIDTH}}" for column in columns).rstrip())
  good = True
  for row in rows:
    cells = (f"{_cell(row.get(column)):{_WIDTH}}" for column in columns)
    print("  ".join(cells).rstrip(), flush=True)
    good = good and "error" not in row
  return good


def _cell(value: object) -> str:
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:,.1f}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> None:
  """Runs the command of the module's docstring."""
  target, *names = arguments or [""]
  if target not in TARGETS:
    raise SystemExit(f"usage: aot TARGET [shapes]; no target {target!r}, choose from {TARGETS}")
  specs = select(names or list(ARG_SPECS))
  compiler, extra = ("jax_cuda13_plugin", "cuda13") if target == "h100" else ("libtpu", "tpu")
  if importlib.util.find_spec(compiler) is None:
    raise SystemExit(
      f"{target}: its compiler, {compiler}, is not installed here; `make aot` installs it, or "
      f"`pip install 'jax[{extra}]'` in an environment of its own"
    )
  if target == "h100":
    good = print_table(aot_gpu.COLUMNS, aot_gpu.rows(specs))
  else:
    good = print_table(aot_tpu.COLUMNS, aot_tpu.rows(target, specs))
  if not good:
    raise SystemExit(1)


if __name__ == "__main__":
  main(sys.argv[1:])
