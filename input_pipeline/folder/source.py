"""The note beside prepared data that says which folder it was made from, and in what state."""

import hashlib
import json
import os
import re

from etils import epath

VERSION = "1.0.0"
_FILE = "source.json"


def absolute_root(root: epath.PathLike) -> epath.Path:
  """The one spelling of a root by which its prepared data is found again."""
  text = os.fspath(root)
  if "://" in text:
    return epath.Path(text.rstrip("/"))
  return epath.Path(os.path.abspath(os.path.expanduser(text)))


def key(root: epath.PathLike) -> str:
  """Directory name of a folder's prepared data: its base name and 8 digits of the path's digest."""
  root = absolute_root(root)
  digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
  return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', root.name)}-{digest}"


def prepared_directory(data_dir: epath.PathLike, root: epath.PathLike) -> epath.Path:
  """Where the prepared data of `root` stands, whether it is there or not."""
  return epath.Path(data_dir) / "folder" / key(root) / VERSION


def write_source(directory: epath.PathLike, root: epath.PathLike, fingerprint: str) -> None:
  """Writes the note into a prepared directory."""
  text = json.dumps({"root": str(root), "fingerprint": fingerprint}, indent=1)
  (epath.Path(directory) / _FILE).write_text(text + "\n")


def stored_fingerprint(directory: epath.PathLike) -> str | None:
  """Fingerprint of the folder at the time of its preparation; None where there is no note."""
  path = epath.Path(directory) / _FILE
  return json.loads(path.read_text())["fingerprint"] if path.exists() else None
