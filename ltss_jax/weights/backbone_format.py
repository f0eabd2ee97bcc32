"""What a kind of backbone file is, and what such a file becomes."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

PREFIX = "backbone."
NOTHING = re.compile(r"(?!)")

Arrays = dict[str, np.ndarray]
# (official name, array in official layout, shape of the model in our layout) -> the array resized,
# None where it is nothing that is resized.
Resize = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]


def unchanged(name: str) -> str:
  """The name as it is, where the official one is the same."""
  return name


def never(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
  """The `Resize` of what has one size only."""
  del name, array, shape


@dataclasses.dataclass(frozen=True)
class Format:
  """One kind of file.

  Attributes:
    title: name for messages.
    marks: names by which it is known.
    rename: name -> official name without "backbone.".
    dropped: names that a segmentation model does not use.
    afresh: official names that its backbone has beside those of the file.
    finish: brings renamed arrays into the official form, in place; returns its changes as text, for
      the report. It raises ValueError for a model of that kind which has no place here.
    resize: fits tables to the model's size.
  """

  title: str
  marks: tuple[str, ...]
  rename: Callable[[str], str]
  dropped: re.Pattern[str]
  afresh: re.Pattern[str] = NOTHING
  finish: Callable[[Arrays], list[str]] | None = None
  resize: Resize = never


@dataclasses.dataclass
class Backbone:
  """A backbone's weights under official names.

  Attributes:
    title: kind of file that it was recognised as.
    arrays: official name -> array.
    dropped: names in the file that have no use here.
    afresh: official names that may be missing.
    changed: changes to single arrays, as text.
    resize: as the format's.
  """

  title: str
  arrays: Arrays
  dropped: list[str]
  afresh: re.Pattern[str]
  changed: list[str]
  resize: Resize


def convert(kind: Format, arrays: Arrays) -> Backbone:
  """Gives the arrays of a file official names and form."""
  official, dropped = {}, []
  for name, array in arrays.items():
    if kind.dropped.fullmatch(name):
      dropped.append(name)
    else:
      official[PREFIX + kind.rename(name)] = array
  changed = [] if kind.finish is None else kind.finish(official)
  return Backbone(kind.title, official, dropped, kind.afresh, changed, kind.resize)
