"""Class layers of saved weights for other classes: rows follow the names, not the numbers."""

import collections
from collections.abc import Sequence

import numpy as np

_SHOWN_NAMES = 10  # of a line; a data set may have hundreds


class ClassRows:
  """Where the classes of a model stand in saved weights.

  A name that stands twice in either list says nothing, and its classes start afresh. Lists that are
  equal are the same classes, whatever their names.
  """

  def __init__(self, saved: Sequence[str], wanted: Sequence[str]):
    """Matches names.

    Args:
      saved: names of the classes of the saved weights, in their order.
      wanted: likewise, of the model.
    """
    self._saved, self._wanted = list(saved), list(wanted)
    self.are_equal = self._saved == self._wanted
    counts = collections.Counter(saved), collections.Counter(wanted)
    unique = {name for name in counts[0] if counts[0][name] == counts[1][name] == 1}
    self._to = [row for row, name in enumerate(wanted) if name in unique]
    self._from = [self._saved.index(wanted[row]) for row in self._to]

  def of_model(self, fresh: np.ndarray, saved: np.ndarray) -> np.ndarray | None:
    """The rows of a layer that have a name in both, the others as they are in the fresh model.

    Outputs behind the classes, such as "no object", are taken over with them.

    Args:
      fresh: layer of the model, [..., C + outputs behind].
      saved: layer of the saved weights, [..., C' + outputs behind].

    Returns:
      Array like `fresh`; None where no class has its row in the saved weights, or the layers differ
      in more than their classes.
    """
    behind = fresh.shape[-1] - len(self._wanted)
    fits = saved.shape[:-1] == fresh.shape[:-1] and saved.shape[-1] == len(self._saved) + behind
    if not (self._to and fits and behind >= 0):
      return None
    rows = np.array(fresh)
    rows[..., self._to] = saved[..., self._from]
    rows[..., len(self._wanted) :] = saved[..., len(self._saved) :]
    return rows

  def lines(self) -> list[str]:
    """What becomes of the classes, as lines that begin with ~, - or +."""
    to, origin = set(self._to), set(self._from)
    afresh = [name for row, name in enumerate(self._wanted) if row not in to]
    unused = [name for row, name in enumerate(self._saved) if row not in origin]
    lines = [f"~ {len(self._to)} of {len(self._wanted)} classes have the rows of their name"]
    if afresh:
      lines.append(f"- {len(afresh)} classes start afresh: {_shown(afresh)}")
    if unused:
      lines.append(f"+ {len(unused)} saved classes are not used: {_shown(unused)}")
    return lines


def _shown(names: list[str]) -> str:
  more = f", ... and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
  return ", ".join(names[:_SHOWN_NAMES]) + more
