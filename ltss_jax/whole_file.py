"""Files that appear whole or not at all, so that a killed process leaves no half of one."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[BinaryIO]:
  """Opens a binary file that takes its place when the block ends without an error.

  Args:
    path: of the file, local or remote; missing folders are made.

  Yields:
    The file to write.

  Raises:
    OSError: it cannot be written; one that was there stays as it is.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with temporary.open("wb") as file:
      yield file
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def grows(path: epath.PathLike) -> bool:
  """Whether a file there can be added to: stores of objects (gs://, s3://) take whole ones only."""
  return "://" not in os.fspath(epath.Path(path))


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file in UTF-8; arguments and errors are those of `replacing`."""
  with replacing(path) as file:
    file.write(text.encode())


def read_json(path: epath.PathLike) -> Any:
  """Reads a JSON file in UTF-8.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged; names it.
  """
  path = epath.Path(path)
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # not JSON, or not text
    raise ValueError(f"{path} is not readable as JSON ({error}); restore or remove it") from error
