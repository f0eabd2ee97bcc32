"""Figures by hand."""

import pytest

from benchmarks import chips


@pytest.mark.parametrize(
  "name, topology, links",
  [
    ("v5e", "2x2", 2),  # one neighbour in each direction
    ("v5e", "4x4", 2),  # a corner
    ("v5e", "8x16", 3),  # rows of 16 are closed
    ("v5e", "16x16", 4),
    ("v5p", "2x2x1", 2),
    ("v5p", "4x4x4", 6),
  ],
)
def test_a_corner_sends_over_its_links(name, topology, links):
  chip = chips.CHIPS[name]
  assert chips.sent_per_second(chip, topology) == links * chip.link


def test_time_at_the_peaks():
  times = chips.milliseconds(
    chips.CHIPS["v5e"], "2x2", flops=197e9, memory=2 * 819e6, sent=3 * 2 * 50e6
  )
  assert times == pytest.approx({"matrix products": 1, "memory": 2, "interconnect": 3})
  alone = chips.milliseconds(chips.CHIPS["h100"], "1x1x1", flops=1, memory=1, sent=0)
  assert alone["interconnect"] == 0
