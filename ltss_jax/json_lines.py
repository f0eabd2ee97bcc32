"""Histories of one JSON object a line, to which each start of something adds."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from ltss_jax import whole_file


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the objects; a last line that was cut off is left out.

  Args:
    path: of the file; without one there are none.

  Raises:
    ValueError: a line is not JSON; names the file.
  """
  path = epath.Path(path)
  try:
    return [json.loads(line) for line in _whole_lines(path)]
  except ValueError as error:  # not JSON, or not text
    raise ValueError(f"{path} holds a line that is not JSON ({error}); remove it") from error


def append(path: epath.PathLike, line: Mapping[str, Any]) -> None:
  """Adds an object, in the place of a last line that was cut off.

  Args:
    path: of the file; made where it is missing.
    line: plain JSON values.
  """
  path = epath.Path(path)
  # Read and written anew: object stores know no appending.
  with whole_file.replacing(path) as file:
    file.write(b"".join(one + b"\n" for one in _whole_lines(path)))
    file.write(json.dumps(line).encode() + b"\n")


def _whole_lines(path: epath.Path) -> list[bytes]:
  """In bytes, as what was cut off may end in the middle of a character."""
  return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
