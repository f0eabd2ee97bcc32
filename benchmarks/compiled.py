"""Reads off a compiled program's text what devices send, memory moves and gathers take."""

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
# What moves nothing by itself; the insides of loops and calls are looked at instead of them.
_STILL = frozenset(
  "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id iota while"
  " conditional call async-start async-done".split()
)
_ARRAY = re.compile(r"\b(pred|bf16|[sfuc]\d+)\w*\[([\d,]*)\](\{[^}]*\})?")
_ON_CHIP = re.compile(r"\bS\(\d+\)")  # in a layout: a TPU's memory beside its main one
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^ *(?:ROOT )?(%?[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(r"\b(?:(?:body|calls|to_apply)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\})")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of the program.

  Attributes:
    name: of its result.
    shape: of its result, as text.
    operation: what it does.
    rest: operands and attributes.
    room: name of the computation that it stands in.
  """

  name: str
  shape: str
  operation: str
  rest: str
  room: str

  @property
  def called(self) -> list[str]:
    """Names of the computations that it runs."""
    return [name for names in _CALLED.findall(self.rest) for name in _names(", ".join(names))]

  @property
  def trips(self) -> int:
    """How often it runs them, 1 where the compiler does not know."""
    known = _TRIPS.search(self.rest) if self.operation == "while" else None
    return int(known[1]) if known else 1


@dataclasses.dataclass
class Collectives:
  """All operations of one kind.

  Attributes:
    count: how often one runs.
    sent: bytes that each device sends.
  """

  count: int = 0
  sent: float = 0.0


class Program:
  """Text of an optimised HLO, `compiled.as_text()`."""

  def __init__(self, text: str):
    self._rooms: dict[str, list[Instruction]] = {}
    self._entry, room = "", ""
    for line in text.splitlines():
      head = _COMPUTATION.match(line)
      if head:
        room = head[2]
        self._rooms[room] = []
        self._entry = room if head[1] else self._entry
      elif found := _INSTRUCTION.match(line):
        self._rooms[room].append(Instruction(*found.groups(), room))

  def collectives(self, devices: int) -> dict[str, Collectives]:
    """What each device sends when the program runs once.

    Args:
      devices: number of devices, all of which take part where an operation names no groups.

    Returns:
      By kind, as XLA names it; the body of a loop counts as often as it runs, once where the
      compiler does not know. A sum of which each device keeps a part counts as "reduce-scatter".
    """
    found: dict[str, Collectives] = {}
    channels = set()
    for instruction, times in self._running(self._entry, into_fusions=True):
      kind = instruction.operation.removesuffix("-start")
      if kind not in _SENT:
        continue
      # On a TPU one stands in the fusion that starts it, in those that compute while it goes on,
      # and in the one that waits for it.
      channel = re.search(r"channel_id=\d+", instruction.rest)
      if channel and channel[0] in channels:
        continue
      channels.add(channel and channel[0])
      size, group = _array_bytes(instruction.shape), _group_size(instruction.rest, devices)
      if kind != instruction.operation:  # beside the result its tuple has the operands
        size *= {"all-gather": group / (group + 1), "all-reduce": 1}.get(kind, 0.5)
      elif kind == "reduce-scatter":
        size *= group
      # A TPU has no operation for it: a fusion of a sum and of the part that is kept.
      if kind == "all-reduce" and instruction.room.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
      total = found.setdefault(kind, Collectives())
      total.count += times
      total.sent += times * size * _SENT[kind](group)
    return found

  def memory_bytes(self) -> int:
    """Bytes that a device reads and writes, each operation its operands and its result once.

    What stays in a GPU's cache is not taken off. The body of a loop counts as often as it runs,
    once where the compiler does not know. Operations that take or fill a part of an array, as loops
    do, are left out: how much of it they touch is not in the text.
    """
    shapes = self._shapes()
    total = 0
    for instruction, times in self._running(self._entry, into_fusions=False):
      if instruction.operation in _STILL or instruction.operation.endswith("-done"):
        continue
      if self._takes_a_part(instruction):
        continue
      operands = _names(instruction.rest.partition(")")[0])
      arrays = [instruction.shape, *(shapes.get(name, "") for name in operands)]
      total += times * sum(_array_bytes(array, main_memory=True) for array in arrays)
    return total

  def most_gathered(self) -> int:
    """The most slices that one gather or scatter takes, of whatever size; 0 without any.

    What is expensive on a TPU is their number: a slice of a few KB takes hardly longer than one of
    a single number.
    """
    shapes = self._shapes()
    return max(
      (
        _slices(instruction, shapes)
        for instructions in self._rooms.values()
        for instruction in instructions
        if instruction.operation in ("gather", "scatter")
      ),
      default=0,
    )

  def _shapes(self) -> dict[str, str]:
    """Shape of each result, as text, by its name without sign."""
    rooms = self._rooms.values()
    return {line.name.lstrip("%"): line.shape for lines in rooms for line in lines}

  def _takes_a_part(self, instruction: Instruction) -> bool:
    """Whether it, or what is fused in it, slices an array at a place known at run time alone."""
    fused = [inner for room in instruction.called for inner in self._rooms[room]]
    return any(inner.operation.startswith("dynamic-") for inner in (instruction, *fused))

  def _running(
    self, room: str, into_fusions: bool, times: int = 1
  ) -> Iterator[tuple[Instruction, int]]:
    """Instructions of a computation and of those that it runs, and how often each runs."""
    for instruction in self._rooms[room]:
      yield instruction, times
      if into_fusions or instruction.operation in _STILL:
        for called in instruction.called:
          yield from self._running(called, into_fusions, times * instruction.trips)


def _slices(instruction: Instruction, shapes: dict[str, str]) -> int:
  """How many slices a gather or scatter takes."""
  if instruction.operation == "gather":
    (size,) = re.findall(r"slice_sizes=\{([\d,]*)\}", instruction.rest)
    return math.prod(_sides(instruction.shape)) // math.prod(map(int, size.split(",")))
  operands = _names(instruction.rest.partition(")")[0])
  sides = _sides(shapes[operands[-1]])  # of the updates
  (window,) = re.findall(r"update_window_dims=\{([\d,]*)\}", instruction.rest)
  window = [int(axis) for axis in window.split(",") if axis]
  return math.prod(side for axis, side in enumerate(sides) if axis not in window)


def _sides(shape: str) -> list[int]:
  """Sides of the first array in a shape."""
  return [int(side) for side in _ARRAY.search(shape)[2].split(",") if side]


def _names(text: str) -> list[str]:
  """Names in a list, without their signs and shapes."""
  return [name.split()[-1].lstrip("%") for name in text.split(", ") if name.strip()]


def _array_bytes(shape: str, main_memory: bool = False) -> int:
  """Bytes of an array or of all arrays of a tuple; where asked for, without those on the chip."""
  total = 0
  for dtype, sides, layout in _ARRAY.findall(shape):
    if main_memory and _ON_CHIP.search(layout):
      continue
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    total += math.prod(map(int, filter(None, sides.split(",")))) * bits // 8
  return total


def _group_size(rest: str, devices: int) -> int:
  """How many devices exchange among each other."""
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
  counted = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
  axes = re.search(r"replica_groups=mesh\[(.*?)\] *\{(.*?)\}", rest)
  if listed:
    return listed[1].count(",") + 1
  if axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
  return int(counted[1]) if counted else devices
