"""What the makers of chips publish of them, and what that says of a program's time."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of one chip.

  Attributes:
    flops: operations a second of matrix products in bfloat16.
    bandwidth: bytes a second of its memory.
    memory: bytes of its memory.
    link: bytes a second that it sends to one neighbour.
    ring: chips in a row, from which on the ends of the row are neighbours as well.
  """

  flops: float
  bandwidth: float
  memory: float
  link: float = 0.0
  ring: int = 0


# TPUs: docs.cloud.google.com/tpu/docs/v5e, v5p and v6e. A link carries its share of the bandwidth
# between chips, half of it each way: v5e 400 GB/s over 4 links, v5p 1,200 over 6, v6e 800 over 4.
# H100 SXM: NVIDIA's data sheet, without sparsity.
CHIPS = {
  "v5e": Chip(197e12, 819e9, 16 * 2**30, link=50e9, ring=16),
  "v5p": Chip(459e12, 2765e9, 95 * 2**30, link=100e9, ring=4),
  "v6e": Chip(918e12, 1640e9, 32 * 2**30, link=100e9, ring=16),
  "h100": Chip(989e12, 3350e9, 80e9),
}


def sent_per_second(chip: Chip, topology: str) -> float:
  """Bytes a second that a corner of a slice sends, which has the fewest neighbours.

  Args:
    chip: one of `CHIPS`.
    topology: sides of the slice, as 2x2.
  """
  sides = [int(side) for side in topology.split("x")]
  # Two chips in a row are connected once.
  links = sum(2 if side >= max(chip.ring, 3) else 1 for side in sides if side > 1)
  return links * chip.link


def milliseconds(
  chip: Chip, topology: str, *, flops: float, memory: float, sent: float
) -> dict[str, float]:
  """How long a chip is busy at its peaks, by what keeps it busy.

  A program takes at least the largest of them, and as a rule more: nothing says that they overlap.

  Args:
    chip: one of `CHIPS`.
    topology: sides of the slice.
    flops: operations of matrix products on a chip.
    memory: bytes that it reads and writes.
    sent: bytes that it sends to others.
  """
  speed = sent_per_second(chip, topology)
  return {
    "matrix products": 1e3 * flops / chip.flops,
    "memory": 1e3 * memory / chip.bandwidth,
    "interconnect": 1e3 * sent / speed if sent else 0.0,
  }
