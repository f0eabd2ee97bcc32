"""The two file formats of torch.save, read without torch.

Today's is a zip archive with a pickle and one member for each storage; that of torch before 1.6
("legacy") is a sequence of pickles followed by the storages.
"""

import pickle
import zipfile
from typing import Any, BinaryIO

from ltss_jax.weights import pickles

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# How a legacy file begins: a pickle of the magic number.
LEGACY_START = pickle.dumps(LEGACY_MAGIC, protocol=2)


def read_zip(archive: zipfile.ZipFile) -> Any:
  """Reads an archive that torch.save wrote.

  Args:
    archive: must stay open while arrays are read.

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


def read_legacy(file: BinaryIO) -> Any:
  """Reads a legacy file from its position on.

  Args:
    file: seekable; must stay open while arrays are read.

  Returns:
    Its object, with arrays as `pickles.LazyArray`.

  Raises:
    pickles.RefusedError: as `pickles.load`.
    Exception: of any kind, where the file is damaged.
  """
  if pickles.load(file) != LEGACY_MAGIC or pickles.load(file) != _LEGACY_PROTOCOL:
    raise ValueError("it is no file of torch.save")
  pickles.load(file)  # sizes of C types on the machine that wrote it
  sizes: dict[str, tuple[int, int]] = {}  # elements of each storage, and bytes of one
  offsets: dict[str, int] = {}

  def read_bytes(key: str, start: int, length: int) -> bytes:
    file.seek(offsets[key] + start)
    return file.read(length)

  def load_storage(pid: Any) -> pickles.Storage:
    _, kind, key, _, size, view = pid
    width = pickles.STORAGE_DTYPES[kind].itemsize
    sizes[key] = size, width
    start = 0
    if view is not None:
      _, start, size = view
    return pickles.Storage(kind, size, lambda: read_bytes(key, start * width, size * width))

  result = pickles.load(file, load_storage)
  for key in pickles.load(file):
    size, width = sizes[key]
    written = int.from_bytes(file.read(8), "little")
    if written != size:
      raise ValueError(f"a storage of {size} elements is followed by {written}")
    offsets[key] = file.tell()
    file.seek(size * width, 1)
  return result
