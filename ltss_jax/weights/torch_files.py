"""The file format of torch.save since torch 1.6, read without torch.

A zip archive with a pickle and one member for each storage. `pickles` reads the format of before,
which a pickle may hold within itself.
"""

import zipfile
from typing import Any

from ltss_jax.weights import pickles


def read_zip(archive: zipfile.ZipFile) -> Any:
  """Reads an archive that torch.save wrote.

  Args:
    archive: open archive; must stay open while arrays are read.

  Returns:
    Its object, with arrays as `pickles.LazyArray`.

  Raises:
    pickles.RefusedError: as `pickles.load`.
    Exception: of any kind, where the file is damaged.
  """
  (pickle_name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
  folder = pickle_name.removesuffix("data.pkl")
  if f"{folder}byteorder" in archive.namelist():
    order = archive.read(f"{folder}byteorder")
    if order != b"little":
      raise ValueError(f"its byte order is {order!r}; save it anew on a little-endian machine")

  def load_storage(pid: Any) -> pickles.Storage:
    _, kind, key, _, size = pid
    return pickles.Storage(kind, size, lambda: _member(archive, f"{folder}data/{key}"))

  with archive.open(pickle_name) as file:
    return pickles.load(file, load_storage)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
  if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # could grow without bounds
    raise ValueError(f"{name} is compressed, which torch.save never does")
  return archive.read(name)
