"""Reads `index_ade20k.pkl`, a pickled dict of lists and arrays, without running what it names.

A pickle is a program: it imports what it names and calls it. Here the names that numpy's arrays are
made of lead to stand-ins of this module, which only record their data; any other name ends the
reading.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import file_access

_KEYS = ("folder", "filename")
_CORES = ("numpy.core", "numpy._core")
_TEXT_OR_NUMBER = re.compile(r"[<>|=]?([biufUS]\d+|[?])")


class _Dtype:
  """A numpy dtype, as far as a pickle has described it."""

  def __init__(self, name: Any = "", *flags: Any):
    del flags
    self.name, self.order = name, ""

  def __setstate__(self, state: Any) -> None:
    self.order = state[1]


class _Array:
  """A numpy array, as far as a pickle has described it."""

  def __init__(self, *state: Any):
    self.state = state[1:]

  def __setstate__(self, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    self.state = (shape, dtype, data, fortran)

  def items(self) -> list[Any]:
    """Returns the elements of a one-dimensional array."""
    shape, dtype, data, _ = self.state
    if len(shape) != 1:
      raise ValueError(f"an array of shape {shape} where a list is expected")
    if dtype.name in ("O", "O8"):
      return list(data)
    if not _TEXT_OR_NUMBER.fullmatch(dtype.name):
      raise ValueError(f"an array of type {dtype.name!r}")
    order = dtype.order if dtype.order in ("<", ">") else ""
    return np.frombuffer(data, np.dtype(order + dtype.name.lstrip("<>|="))).tolist()


def _new_array(*_: Any) -> _Array:
  """As numpy's `_reconstruct`: an empty array, which gets its state next."""
  return _Array()


def _array_from_buffer(data: Any, dtype: _Dtype, shape: Any, order: Any) -> _Array:
  """As numpy's `_frombuffer`, of the newer pickle protocols."""
  array = _Array()
  array.__setstate__((1, shape, dtype, order == "F", data))
  return array


def _scalar(dtype: _Dtype, data: Any) -> Any:
  """As numpy's `scalar`."""
  return _array_from_buffer(data, dtype, (1,), "C").items()[0]


def _encode(text: str, encoding: str) -> bytes:
  """How Python 3 writes bytes in the protocols of Python 2."""
  if encoding not in ("latin1", "latin-1"):
    raise ValueError(f"bytes written as {encoding!r}")
  return text.encode("latin1")


class _Admitted:
  """A function that a pickle may call; without attributes that a pickle could overwrite."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable[..., Any]):
    object.__setattr__(self, "_function", function)

  def __call__(self, *args: Any) -> Any:
    return self._function(*args)

  def __setattr__(self, name: str, value: Any) -> None:
    raise pickle.UnpicklingError("it tries to change a function")


_ADMITTED = {
  **{
    f"{core}.{name}": stand_in
    for core in _CORES
    for name, stand_in in (
      ("multiarray._reconstruct", _new_array),
      ("multiarray.scalar", _scalar),
      ("numeric._frombuffer", _array_from_buffer),
    )
  },
  "numpy.ndarray": _Array,
  "numpy.dtype": _Dtype,
  "_codecs.encode": _encode,
}


class _Unpickler(pickle.Unpickler):
  """Looks names up in the table above only."""

  def find_class(self, module: str, name: str) -> Any:
    full_name = f"{module}.{name}"
    if full_name not in _ADMITTED:
      raise pickle.UnpicklingError(
        f"it asks for {full_name}; only dicts, lists, text, numbers and arrays are read, nothing is"
        " run"
      )
    return _Admitted(_ADMITTED[full_name])


def read_index(path: epath.PathLike) -> list[tuple[str, str]]:
  """Reads folder and file name of every image.

  Args:
    path: path of index_ade20k.pkl.

  Returns:
    (folder relative to the directory that holds ADE20K_2021_17_01, file name) of every image.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is no such index, or names what is neither container nor array.
  """
  path = epath.Path(path)
  if not file_access.exists(path):
    raise FileNotFoundError(f"{path} is missing: it lists the images and comes with them.")
  data = file_access.read_bytes(path, "use the published file")
  try:
    index = _Unpickler(io.BytesIO(data)).load()
    columns = [_texts(index, key) for key in _KEYS]
  except Exception as error:  # A damaged pickle can make its reader raise anything.
    raise ValueError(
      f"{path} cannot be read ({error or type(error).__name__}): use the published file."
    ) from error
  folders, names = columns
  if len(folders) != len(names):
    raise ValueError(
      f"{path} lists {len(folders)} folders but {len(names)} file names: use the published file."
    )
  return list(zip(folders, names, strict=True))


def _texts(index: Any, key: str) -> list[str]:
  if not isinstance(index, dict) or key not in index:
    raise ValueError(f"it is no dict with the key {key!r}")
  values = index[key].items() if isinstance(index[key], _Array) else index[key]
  if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
    raise ValueError(f"{key!r} is no list of text")
  return values
