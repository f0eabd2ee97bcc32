"""Reading that notices damage: SHA-256 sums beside files, and archives read to their last byte."""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable

import numpy as np
from etils import epath

# In the format of `sha256sum`, which checks it too: `sha256sum -c SHA256SUMS`.
SUMS_FILE = "SHA256SUMS"


def write_sums(directory: epath.PathLike, names: Iterable[str]) -> None:
  """Writes SHA256SUMS for files of a directory, which must not change after that.

  Args:
    directory: local path or gs://.
    names: file names in it.
  """
  directory = epath.Path(directory)
  lines = [f"{_sha256((directory / name).read_bytes())}  {name}\n" for name in sorted(names)]
  (directory / SUMS_FILE).write_text("".join(lines))


def read(path: epath.PathLike, remedy: str) -> bytes:
  """Reads a file and compares it with the SHA256SUMS beside it; without those it is not checked.

  Args:
    path: the file.
    remedy: advice where it is damaged, for the message.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not as it was written, or the sums are not; names it.
  """
  path = epath.Path(path)
  data = path.read_bytes()
  sums = path.parent / SUMS_FILE
  if sums.exists():
    known = re.findall(rb"^([0-9a-f]{64})  (.+)$", sums.read_bytes(), re.MULTILINE)
    if (_sha256(data).encode(), path.name.encode()) not in known:
      raise ValueError(f"{path} is damaged: it is not what {sums} says was written; {remedy}")
  return data


def read_npz(path: epath.PathLike, remedy: str) -> dict[str, np.ndarray]:
  """Reads all arrays of an .npz file, with `read`'s check and the archive's own.

  `np.load` alone reads an array as far as its header says. Where a damaged header says less than
  there is, it never comes to the end, where the archive's checksum is compared.

  Args:
    path: the file.
    remedy: advice where it is damaged, for the message.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or something else; names it.
  """
  data = read(path, remedy)
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      # The file's end says how many there are; where that reading goes wrong, zipfile skips some.
      if len(archive.namelist()) != int.from_bytes(data[-12:-10], "little"):
        raise zipfile.BadZipFile("arrays are missing")
      members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    return {
      name: np.load(io.BytesIO(member), allow_pickle=False) for name, member in members.items()
    }
  except Exception as error:  # Those of numpy, zipfile and zlib share no base class.
    raise ValueError(f"{path} is not readable ({error}); {remedy}") from error


def _sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
