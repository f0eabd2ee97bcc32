"""Atomic writes: files appear whole or not at all; and JSON that tells whether it is as written."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from etils import epath

_SEAL, _ALGORITHM = "digest", "sha256:"


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[BinaryIO]:
  """Opens a binary file that takes its place when the block ends without an error.

  Args:
    path: the file, local or remote; missing folders are made.

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


def can_append(path: epath.PathLike) -> bool:
  """Whether a file there can be added to: stores of objects (gs://, s3://) take whole ones only."""
  return "://" not in os.fspath(epath.Path(path))


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file in UTF-8; arguments and errors are those of `atomic_write`."""
  with atomic_write(path) as file:
    file.write(text.encode())


def write_json(
  path: epath.PathLike, content: Mapping[str, Any], *, indent: int = 1, allow_nan: bool = True
) -> None:
  """Writes a JSON object, sealed, in UTF-8.

  Args:
    path: the file.
    content: plain JSON values.
    indent: blanks before each level.
    allow_nan: whether NaN and infinities, which are not JSON, may stand in it.

  Raises:
    OSError: it cannot be written; one that was there stays as it is.
    ValueError: there are such numbers and they may not.
  """
  text = json.dumps(sealed(content), indent=indent, ensure_ascii=False, allow_nan=allow_nan)
  write_text(path, text + "\n")


def read_json(path: epath.PathLike, remedy: str = "restore or remove it") -> Any:
  """Reads a JSON file in UTF-8; an object without its seal, which is not checked.

  Args:
    path: the file.
    remedy: advice where it is damaged, for the message.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or was edited; names it.
  """
  path = epath.Path(path)
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:  # not JSON, or not text
    raise ValueError(f"{path} is not readable as JSON ({error}); {remedy}") from error
  try:
    return unsealed(content)
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged or was edited: {error}; {remedy}. If the edit is meant, delete its entry"
      f" {_SEAL!r} and the comma before that"
    ) from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
  """The content with a digest of it as its last entry.

  The digest is "sha256:" and the first 16 hexadecimal digits of the SHA-256 of the content as JSON
  with sorted keys, without blanks, in ASCII. So neither the order of the keys nor the layout of a
  file matters.

  Args:
    content: plain JSON values.
  """
  content = json.loads(json.dumps(content))  # as it will be read: lists for tuples, text for keys
  return content | {_SEAL: _digest(content)}


def unsealed(content: Any) -> Any:
  """What `sealed` was given; what has no digest, as older versions wrote it, comes back as it is.

  Args:
    content: the content read.

  Raises:
    ValueError: the digest is of other content. Also where a digest stands under another name: that
      is damaged, too.
  """
  if not isinstance(content, dict):
    return content
  # One damaged byte spoils the name or the value, never both.
  values = [value for value in content.values() if isinstance(value, str)]
  if _SEAL not in content and not any(value.startswith(_ALGORITHM) for value in values):
    return content
  rest = {name: value for name, value in content.items() if name != _SEAL}
  if content.get(_SEAL) != _digest(rest):
    raise ValueError(f"its content does not fit its entry {_SEAL!r}")
  return rest


def _digest(content: dict[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True, separators=(",", ":"))
  return _ALGORITHM + hashlib.sha256(text.encode()).hexdigest()[:16]
