"""What a conversion did with every name, and the errors where names or shapes do not fit."""

import dataclasses
import re
from collections.abc import Sequence

MAX_LINES = 30  # of an error; a file of another model differs in hundreds of names


@dataclasses.dataclass
class Report:
  """Counts and lists of names, printed as lines that begin with -, + or ~.

  Attributes:
    converted: number of names taken over.
    regenerated: names of buffers that follow from the model.
    missing: names that the model has and the file has not; they start afresh.
    dropped: names that the file has and the model has no use for.
    changed: changes to single arrays beside a change of layout, as text.
  """

  converted: int = 0
  regenerated: list[str] = dataclasses.field(default_factory=list)
  missing: list[str] = dataclasses.field(default_factory=list)
  dropped: list[str] = dataclasses.field(default_factory=list)
  changed: list[str] = dataclasses.field(default_factory=list)

  def __str__(self) -> str:
    counts = [f"{self.converted} names converted"]
    for what in ("regenerated", "missing", "dropped"):
      if getattr(self, what):
        counts.append(f"{len(getattr(self, what))} {what}")
    lines = [", ".join(counts)]
    lines += [f"- {group}: not in the file, starts afresh" for group in grouped(self.missing)]
    lines += [f"+ {group}: not part of the model, dropped" for group in grouped(self.dropped)]
    lines += [f"~ {text}" for text in self.changed]
    return "\n".join(lines)


def grouped(names: Sequence[str]) -> list[str]:
  """One text for names that differ in numbers only: "layers.*.norm.bias (9)"."""
  groups: dict[str, list[str]] = {}
  for name in names:
    groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)
  return [
    members[0] if len(members) == 1 else f"{pattern} ({len(members)})"
    for pattern, members in groups.items()
  ]


def problems_text(problems: Sequence[str]) -> str:
  """The problems, sorted, one a line; at most MAX_LINES of them."""
  lines = sorted(problems)
  if len(lines) > MAX_LINES:
    lines = [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES} more"]
  return "\n".join(lines)
