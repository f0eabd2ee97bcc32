"""Histories of one JSON object a line, to which each start of something adds."""

import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from ltss_jax.workdir import atomic_file

_MORE = b" "  # Ends a line that another one follows, so that a cut between two lines is noticed.


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the objects; where the end is missing, a warning says so.

  Args:
    path: the file; without one there are none.

  Raises:
    ValueError: a line is not as it was written; names the file and the line.
  """
  path = epath.Path(path)
  return [parsed(line, f"{path}, line {n}") for n, line in enumerate(_whole_lines(path), 1)]


def parsed(line: bytes, name: str) -> dict[str, Any]:
  """The object of one line.

  Args:
    line: line by `line_of`.
    name: name of the line, for the message.

  Raises:
    ValueError: it is not as it was written.
  """
  try:
    return atomic_file.unsealed(json.loads(line))
  except ValueError as error:  # not JSON, or not text, or not sealed so
    raise ValueError(f"{name}: not as it was written ({error}); remove the line") from error


def line_of(content: Mapping[str, Any]) -> bytes:
  """One object as a line, sealed.

  Args:
    content: plain JSON values.
  """
  return json.dumps(atomic_file.sealed(content)).encode() + b"\n"


def append(path: epath.PathLike, content: Mapping[str, Any]) -> None:
  """Adds an object, in the place of a last line that was cut off.

  Args:
    path: the file; made where it is missing.
    content: plain JSON values.
  """
  path = epath.Path(path)
  # Read and written anew: object stores know no appending.
  with atomic_file.atomic_write(path) as file:
    for line in _whole_lines(path):
      file.write(line.rstrip(_MORE) + _MORE + b"\n")
    file.write(line_of(content))


def _whole_lines(path: epath.Path) -> list[bytes]:
  """The complete lines in bytes, as what was cut off may end in the middle of a character."""
  if not path.exists():
    return []
  *lines, rest = path.read_bytes().split(b"\n")
  if rest or (lines and lines[-1].endswith(_MORE)):
    logging.warning("%s ends too early: what followed its line %d is missing", path, len(lines))
  return lines
