"""Reading files of users, where a name may stand for anything: a pipe, a folder, a link to nowhere.

What it is is looked up before it is opened: opening a named pipe waits for its writer, and a device
may do anything. Names in messages are printable, whatever bytes they hold.
"""

import errno
import os
import stat
from collections.abc import Iterator

from etils import epath

# What is taken for an image by its name, by training and by prediction.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_KINDS = (
  (stat.S_ISDIR, "a folder"),
  (stat.S_ISFIFO, "a named pipe"),
  (stat.S_ISSOCK, "a socket"),
  (stat.S_ISCHR, "a device"),
  (stat.S_ISBLK, "a device"),
)


class FileError(ValueError):
  """A file that cannot be read; the message names it and says why."""


def printable(path: epath.PathLike | str) -> str:
  r"""A name as a terminal shows it: bytes that are no UTF-8 as \xe9, control characters escaped."""
  text = os.fsencode(os.fspath(path)).decode("utf-8", "backslashreplace")
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_name(path: epath.PathLike | str) -> None:
  """Raises a FileError where a name is no UTF-8, which records and JSON files cannot hold."""
  try:
    os.fspath(path).encode()
  except UnicodeEncodeError as error:
    raise FileError(
      f"{printable(path)}: the name holds bytes that are no UTF-8; rename it"
    ) from error


def problem(path: epath.PathLike) -> str:
  """Says why a path is no file that can be read, such as "it is a named pipe"; opens nothing.

  Args:
    path: a link stands for what it leads to. What lies in a bucket is taken for a file.

  Returns:
    A clause, or "" where it is a file.
  """
  if _is_remote(path):
    return ""
  try:
    mode = os.stat(path).st_mode
  except OSError as error:
    return _reason(path, error)
  for is_kind, name in _KINDS:
    if is_kind(mode):
      return f"it is {name}, not a file"
  return "" if os.access(path, os.R_OK) else "you may not read it"


def exists(path: epath.Path) -> bool:
  """Whether there is an entry of this name, be it a link to nowhere."""
  return path.exists() if _is_remote(path) else os.path.lexists(path)


def read_bytes(path: epath.Path, remedy: str = "") -> bytes:
  """Reads a file.

  Args:
    path: the file.
    remedy: advice where that fails, for the message.

  Raises:
    FileError: it is no file, is gone, or cannot be read.
  """
  remedy = f"; {remedy}" if remedy else ""
  if why := problem(path):
    raise FileError(f"{printable(path)}: {why}{remedy}")
  try:
    return path.read_bytes()
  except OSError as error:
    raise FileError(f"{printable(path)}: {_reason(path, error)}{remedy}") from error


def read_lines(path: epath.Path) -> list[str]:
  """Reads the lines of a text file, without the blanks around them and the empty ones at its end.

  Raises:
    FileError: it cannot be read, or is no UTF-8.
  """
  try:
    text = read_bytes(path, "put a text file in its place").decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise FileError(f"{printable(path)} is not UTF-8 text ({error}): save it as UTF-8.") from error
  return [line.strip() for line in text.rstrip().splitlines()]


def entries(folder: epath.Path) -> list[epath.Path]:
  """What lies in a folder, sorted, without hidden files; a FileError where it cannot be listed."""
  try:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
  except OSError as error:
    raise FileError(f"{printable(folder)}: {_reason(folder, error)}") from error


def walk(
  folder: epath.Path, suffixes: tuple[str, ...], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[epath.Path]:
  """Yields what has one of the endings, in a folder and all folders below it.

  Args:
    folder: folder of the files. Hidden files and folders are left out.
    suffixes: file name endings, lower case. Whatever has one is yielded, be it a folder or a pipe.
    above: device and inode of the folders that led here, against links that go round.

  Yields:
    Paths, folder by folder, sorted by name.

  Raises:
    FileError: a folder cannot be listed, or is a link to one that it lies in.
  """
  found = entries(folder)
  if not _is_remote(folder):
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
      raise FileError(
        f"{printable(folder)}: it is a link to a folder that it lies in; remove the link"
      )
    above = (*above, identity)
  for path in found:
    if path.suffix.lower() in suffixes:
      yield path
    elif path.is_dir() if _is_remote(path) else os.path.isdir(path):
      yield from walk(path, suffixes, above)


def _is_remote(path: epath.PathLike) -> bool:
  return "://" in os.fspath(path)


def _reason(path: epath.PathLike, error: OSError) -> str:
  """What an error of the system means here."""
  if error.errno == errno.ENOENT:
    if not _is_remote(path) and os.path.islink(path):
      return f"it is a link to {printable(os.readlink(path))}, which does not exist"
    return "the file is missing"
  if error.errno == errno.ELOOP:
    return "it is a link that leads back to itself"
  if error.errno in (errno.EACCES, errno.EPERM):
    return "you may not read it"
  return f"it cannot be read ({error.strerror or error})"
