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
from absl import logging

from ltss_jax.weights import hub, pickles, sets, shards, torch_files
from ltss_jax.workdir import atomic_file

# In the order in which the format's own library writes arrays, so that all are aligned.
_SAFETENSORS_DTYPES = {
  "I64": np.int64,
  "F64": np.float64,
  "F32": np.float32,
  "I32": np.int32,
  "BF16": jnp.bfloat16,
  "F16": np.float16,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, the format's own limit


def read_arrays(path: str | pathlib.Path, weights: str = "") -> dict[str, np.ndarray]:
  """Reads a checkpoint's weights.

  The format is known by the content: a pickle with numpy arrays or torch tensors (.pkl), torch's
  zip and legacy formats (.pth, .pt, .bin), .safetensors, .npz. Nothing that a file names is run.

  Args:
    path: the file; the index of several; a folder that `save_pretrained` wrote; or the address
      hf://OWNER/NAME[@REVISION][/FILE] of one of these on the Hugging Face Hub.
    weights: name of the set of weights in a file with several (`sets.choose`).

  Returns:
    name -> array, without the wrapping of training programs ({"model": ...}, "module."). The log
    says what was taken off and what is left out.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, one of several, asks for more than arrays and plain containers,
      or holds no arrays; it is not clear which are meant; or it cannot be fetched.
  """
  path = hub.fetch(str(path)) if hub.is_address(path) else pathlib.Path(path)
  if path.is_dir():
    path = shards.find(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; give the checkpoint file")
  with path.open("rb") as file:
    if _is_json(file):
      return _chosen(path, _read_shards(path), weights)
    shards.require_whole(path)
    with _errors_name(path):
      content = _read(path, file)
    return _chosen(path, content, weights)


def _is_json(file: BinaryIO) -> bool:
  start = file.read(9)
  file.seek(0)
  return start.startswith(b"{") and start[8:] != b"{"  # which .safetensors has there


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
  arrays = {}
  for shard, names in shards.read_index(index).items():
    path = index.with_name(shard)
    with path.open("rb") as file, _errors_name(path):
      content = _read(path, file)
      missing = [name for name in names if name not in content]
      if missing:
        raise ValueError(f"it lacks {len(missing)} names of {index.name}, such as {missing[0]}")
      arrays |= {name: _array(content[name]) for name in names}
  return arrays


def _chosen(path: pathlib.Path, content: Any, weights: str) -> dict[str, np.ndarray]:
  """Reads those of a file's arrays that are meant."""
  if not isinstance(content, Mapping):
    raise ValueError(f"{path} holds a {type(content).__name__} and not names with arrays")
  found = sets.find(content)
  if not found:
    raise ValueError(f"{path} holds no arrays by name; give a checkpoint of a model's weights")
  try:
    chosen = sets.choose(found, weights)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  for remark in sets.remarks(found, chosen):
    logging.info("%s: %s", path.name, remark)
  with _errors_name(path):
    return {name: _array(value) for name, value in chosen.arrays.items()}


def _array(value: Any) -> np.ndarray:
  if isinstance(value, pickles.LazyArray):
    return value.read()
  if not isinstance(value, np.ndarray):
    raise ValueError(f"it holds a {type(value).__name__} in place of an array")
  return value


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


def _read(path: pathlib.Path, file: BinaryIO) -> Any:
  """What a file holds, arrays as such or as `pickles.LazyArray`, which need it open."""
  start = file.read(64)
  file.seek(0)
  if start.startswith(b"PK"):
    archive = zipfile.ZipFile(file)
    if any(name.endswith("/data.pkl") for name in archive.namelist()):
      return torch_files.read_zip(archive)
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  if start[8:9] == b"{":
    return _read_safetensors(path)
  if start.startswith(pickles.LEGACY_START):
    return pickles.read_legacy(file)
  if not start:
    raise EOFError("it is empty")
  return pickles.load(file)


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


def write_safetensors(path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a .safetensors file, byte for byte as its own library does.

  Args:
    path: the new file; appears only when it is complete.
    arrays: name -> array of a dtype that the format has.
  """
  kinds = {np.dtype(dtype): kind for kind, dtype in _SAFETENSORS_DTYPES.items()}
  places = list(kinds)
  order = sorted(arrays, key=lambda name: (places.index(arrays[name].dtype), name))
  header, end = {}, 0
  for name in order:
    array = arrays[name]
    begin, end = end, end + array.nbytes
    kind = kinds[array.dtype]
    header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, end)}
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)
  with atomic_file.atomic_write(path) as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
      little_endian = arrays[name].dtype.newbyteorder("<")
      file.write(np.ascontiguousarray(arrays[name], little_endian).tobytes())


def write_pickle(path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a checkpoint that detectron2 loads by exact names: {"model": ..., "__author__": ...}.

  Arrays are pickled as calls of `numpy.ndarray`, which every numpy release knows under this name;
  the name that numpy 2 writes by itself is unknown to the releases before 1.26.

  Args:
    path: the new file; appears only when it is complete.
    arrays: official name -> array.
  """
  content = {"model": {k: np.asarray(v) for k, v in arrays.items()}, "__author__": "ltss_jax"}
  with atomic_file.atomic_write(path) as file:
    _Pickler(file, protocol=4).dump(content)


class _Pickler(pickle.Pickler):
  def reducer_override(self, obj: Any) -> Any:
    if not isinstance(obj, np.ndarray):
      return NotImplemented
    little_endian = obj.dtype.newbyteorder("<")
    data = bytearray(np.ascontiguousarray(obj, little_endian).tobytes())  # writable when read
    return np.ndarray, (obj.shape, little_endian.str, data)
