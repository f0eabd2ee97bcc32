"""Reads the arrays of a checkpoint file, whatever library wrote it."""

import json
import pathlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from ltss_jax import whole_file
from ltss_jax.weights import pickles, torch_files

_SAFETENSORS_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, the format's own limit
# Where training programs put the weights: detectron2 and most others, timm and mmseg, fvcore.
_MODEL_KEYS = ("model", "state_dict", "model_state", "model_state_dict")
_DISTRIBUTED_PREFIX = "module."  # of torch's DistributedDataParallel


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a checkpoint's weights.

  The format is known by the content: a pickle with numpy arrays or torch tensors (.pkl), torch's
  zip and legacy formats (.pth, .pt, .bin), .safetensors, .npz. Nothing that a file names is run.

  Args:
    path: of the file.

  Returns:
    name -> array, without the wrapping of training programs ({"model": ...}, "module.").

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, asks for more than arrays and plain containers, or holds none.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise ValueError(f"{path} is a folder; give the checkpoint file in it")
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; give the checkpoint file")
  with path.open("rb") as file, _errors_name(path):
    arrays = _read(path, file)
  if not arrays:
    raise ValueError(f"{path} holds no arrays by name; give a checkpoint of a model's weights")
  if all(name.startswith(_DISTRIBUTED_PREFIX) for name in arrays):
    arrays = {name.removeprefix(_DISTRIBUTED_PREFIX): array for name, array in arrays.items()}
  return arrays


@contextmanager
def _errors_name(path: pathlib.Path) -> Iterator[None]:
  """Turns what damaged or hostile files raise into one error that names the file."""
  try:
    yield
  except pickles.RefusedError as error:
    raise ValueError(
      f"{path} is refused: {error}. Get the file from where it was published, or save only its"
      " state dict (torch.save(model.state_dict(), FILE))"
    ) from error
  except Exception as error:  # A damaged file can make its reader raise anything.
    reason = str(error).strip() or type(error).__name__
    raise ValueError(
      f"{path} cannot be read, {path.stat().st_size} bytes: {reason}. It is damaged or incomplete,"
      " or no .pkl, .pth, .safetensors or .npz file: fetch it again"
    ) from error


def _read(path: pathlib.Path, file: BinaryIO) -> dict[str, np.ndarray]:
  start = file.read(64)
  file.seek(0)
  if start.startswith(b"PK"):
    with zipfile.ZipFile(file) as archive:
      if any(name.endswith("/data.pkl") for name in archive.namelist()):
        return _named_arrays(torch_files.read_zip(archive))
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  if start[8:9] == b"{":
    return _read_safetensors(path)
  if start.startswith(torch_files.LEGACY_START):
    return _named_arrays(torch_files.read_legacy(file))
  if not start:
    raise EOFError("it is empty")
  return _named_arrays(pickles.load(file))


def _named_arrays(content: Any) -> dict[str, np.ndarray]:
  """Finds the weights in what a training program saved; reads only them."""
  while isinstance(content, Mapping):
    inner = [content[key] for key in _MODEL_KEYS if isinstance(content.get(key), Mapping)]
    if not inner:
      break
    content = inner[0]
  if not isinstance(content, Mapping):
    raise ValueError(f"it holds a {type(content).__name__} and not names with arrays")
  return {
    str(name): value.read()
    for name, value in content.items()
    if isinstance(value, pickles.LazyArray)
  }


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """A length, a JSON header with dtype, shape and place of each array, and the arrays."""
  data = np.memmap(path, np.uint8, "r")
  length = int.from_bytes(data[:8].tobytes(), "little")
  if length > min(_MAX_SAFETENSORS_HEADER, len(data) - 8):
    raise ValueError(f"its header of {length} bytes is not all there")
  header = json.loads(data[8 : 8 + length].tobytes())
  header.pop("__metadata__", None)
  body = data[8 + length :]
  arrays = {}
  for name, entry in header.items():
    if entry["dtype"] not in _SAFETENSORS_DTYPES:
      raise ValueError(f"{name} has the dtype {entry['dtype']}, which weights here cannot have")
    dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
    begin, end = entry["data_offsets"]
    size = int(np.prod(entry["shape"], dtype=np.int64)) * dtype.itemsize
    if not 0 <= begin <= end <= len(body) or end - begin != size:
      raise ValueError(f"{name} {tuple(entry['shape'])} is not all there")
    arrays[name] = np.frombuffer(body[begin:end].tobytes(), dtype).reshape(entry["shape"])
  return arrays


def write_pickle(path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a checkpoint that detectron2 loads by exact names: {"model": ..., "__author__": ...}.

  Arrays are pickled as calls of `numpy.ndarray`, which every numpy release knows under this name;
  the name that numpy 2 writes by itself is unknown to the releases before 1.26.

  Args:
    path: of the new file; appears only when it is complete.
    arrays: official name -> array.
  """
  content = {"model": {k: np.asarray(v) for k, v in arrays.items()}, "__author__": "ltss_jax"}
  with whole_file.replacing(path) as file:
    _Pickler(file, protocol=4).dump(content)


class _Pickler(pickle.Pickler):
  def reducer_override(self, obj: Any) -> Any:
    if not isinstance(obj, np.ndarray):
      return NotImplemented
    little_endian = obj.dtype.newbyteorder("<")
    data = bytearray(np.ascontiguousarray(obj, little_endian).tobytes())  # writable when read
    return np.ndarray, (obj.shape, little_endian.str, data)
