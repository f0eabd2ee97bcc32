"""Reads off a compiled program's text what its devices send each other."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

# Bytes that each of n devices sends, as a multiple of the bytes of the whole array: what the best
# algorithms on a ring take (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
# clusters of workstations", 2009, section 3).
_SENT: dict[str, Callable[[int], float]] = {
  "all-gather": lambda n: (n - 1) / n,
  "reduce-scatter": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_ARRAY = re.compile(r"\b(pred|bf16|[sfu]\d+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(body|calls|to_apply|branch_computations)=\{?(%?[\w.\-]+(?:, %?[\w.\-]+)*)")


@dataclasses.dataclass
class Collectives:
  """All operations of one kind.

  Attributes:
    count: how often one runs.
    sent: bytes that each device sends.
  """

  count: int = 0
  sent: float = 0.0


def read(program: str, devices: int) -> dict[str, Collectives]:
  """What each device sends when it runs a program once.

  Args:
    program: text of the optimised HLO, `compiled.as_text()`.
    devices: number of devices, all of which take part where an operation names no groups.

  Returns:
    By kind, a key of `_SENT`; loops whose length the compiler does not know count once.
  """
  computations = _computations(program)
  found: dict[str, Collectives] = {}

  def visit(name: str, times: int) -> None:
    for instruction in computations[name]:
      kind, sent = instruction.sent(devices, computations)
      if kind:
        entry = found.setdefault(kind, Collectives())
        entry.count += times
        entry.sent += times * sent
        continue
      for called in instruction.called:
        visit(called, times * instruction.trips)

  visit("ENTRY", 1)
  return found
