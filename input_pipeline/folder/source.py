"""Where the prepared data of a folder stands, and by what it is found again."""

import hashlib
import os
import re

from etils import epath

from input_pipeline import file_access
from input_pipeline.raw import contents

NAME = "folder"


def absolute_root(root: epath.PathLike) -> epath.Path:
  """The one spelling of a root by which its prepared data is found again.

  Raises:
    ValueError: the root's name is no UTF-8.
  """
  text = os.fspath(root)
  file_access.check_name(text)
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
  return epath.Path(data_dir) / NAME / key(root) / contents.VERSION
