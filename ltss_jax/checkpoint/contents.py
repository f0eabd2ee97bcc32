"""What a checkpoint must give back: digests of its arrays, its small values, and a check of both.

The storage library notices files that are cut off, but not bytes that have changed on the way or on
the disk. So a checkpoint holds an item of this class beside its arrays: each process notes the
digests of the parts of the arrays that it writes, under their place in the whole array, so that
what was read under another mesh can be checked as well.
"""

import asyncio
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xxhash
from etils import epath
from jax.experimental import multihost_utils

from ltss_jax.workdir import atomic_file

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class _Array:
  """An array as it was saved; `parts` are digests by place, such as "0:64,0:3"."""

  dtype: str
  shape: tuple[int, ...]
  parts: Mapping[str, str]

  def __str__(self) -> str:
    return f"{self.dtype} {self.shape}"


class Contents:
  """The item to save with a checkpoint, or to load from one (Orbax's stateful checkpointable).

  Attributes:
    facts: JSON-like values that belong to the checkpoint.
  """

  def __init__(self, tree: Any = None, facts: Mapping[str, Any] | None = None):
    """Takes what is saved; nothing where the item is to be loaded.

    Args:
      tree: the saved arrays, jax's or numpy's.
      facts: JSON-like values.
    """
    self.facts = dict(facts or {})
    self._tree = tree
    self._arrays: dict[str, _Array] = {}

  async def save(self, directory: Any) -> Any:
    """Copies the arrays to the host, as their own saving does; the rest is awaited later.

    Args:
      directory: directory of this item, which Orbax is going to create.
    """
    leaves = _named(self._tree)
    described = {name: _described(leaf) for name, leaf in leaves.items()}
    own = {name: list(_own_parts(leaf)) for name, leaf in leaves.items()}
    for parts in own.values():
      for _, data in parts:
        if isinstance(data, jax.Array):
          data.copy_to_host_async()
    on_host = {name: [(p, np.asarray(d)) for p, d in parts] for name, parts in own.items()}
    self._tree = None  # whose buffers the next step may reuse
    return self._write(directory, described, on_host)

  async def _write(
    self,
    directory: Any,
    described: dict[str, dict[str, Any]],
    on_host: dict[str, list[tuple[str, np.ndarray]]],
  ) -> None:
    def text() -> str:
      arrays = {
        name: array | {"parts": {place: _digest(data) for place, data in on_host[name]}}
        for name, array in described.items()
      }
      content = {"format": _FORMAT, "processes": jax.process_count(), "facts": self.facts}
      return json.dumps(atomic_file.sealed(content | {"arrays": arrays}))

    directory = await directory.await_creation()
    path = epath.Path(directory) / _file_name(jax.process_index())
    path.write_text(await asyncio.to_thread(text))

  async def load(self, directory: Any) -> Any:
    """Reads what all processes noted.

    Args:
      directory: directory of this item.

    Raises:
      ValueError: what was noted is damaged itself; names the file.
    """
    return self._read(epath.Path(directory))

  async def _read(self, directory: epath.Path) -> None:
    first = _unsealed(directory / _file_name(0))
    others = (
      _unsealed(directory / _file_name(process)) for process in range(1, first["processes"])
    )
    arrays = {
      name: _Array(array["dtype"], tuple(array["shape"]), dict(array["parts"]))
      for name, array in first["arrays"].items()
    }
    for other in others:
      for name, array in other["arrays"].items():
        arrays[name].parts.update(array["parts"])
    self.facts, self._arrays = first["facts"], arrays

  def misfits(self, tree: Any) -> list[str]:
    """Where a tree asks for other arrays than were saved: names, types and shapes.

    Args:
      tree: arrays or ShapeDtypeStructs.

    Returns:
      A line for each, "" where the trees agree.
    """
    asked = {name: _described(leaf) for name, leaf in _named(tree).items()}
    lines = [f"- {name}: not asked for" for name in self._arrays if name not in asked]
    for name, array in asked.items():
      saved = self._arrays.get(name)
      wanted = _Array(array["dtype"], tuple(array["shape"]), {})
      if saved is None:
        lines.append(f"+ {name}: not saved")
      elif (saved.dtype, saved.shape) != (wanted.dtype, wanted.shape):
        lines.append(f"! {name}: saved as {saved}, asked for as {wanted}")
    return lines

  def damages(self, tree: Any, *, within: Sequence[str] = ()) -> list[str]:
    """Arrays that are not what was saved; to be called by all processes.

    Args:
      tree: arrays as they were read.
      within: entries of the saved tree, such as "params", that were read; all where none are given.

    Returns:
      Their names.
    """
    read = _named(tree)
    expected = {
      name: array
      for name, array in self._arrays.items()
      if not within or name.split("/")[0] in within
    }
    return [
      name
      for name, array in expected.items()
      if name not in read or not _is_same(read[name], array)
    ]


def _named(tree: Any) -> dict[str, Any]:
  """Leaves by path, "params/backbone/0/kernel"; the same for attributes, keys and numbers."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}


def _described(leaf: Any) -> dict[str, Any]:
  return {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _own_parts(leaf: Any) -> Iterator[tuple[str, Any]]:
  """(place, data) of the parts that this process saves: one copy of each."""
  if isinstance(leaf, jax.Array):
    for shard in leaf.addressable_shards:
      if shard.replica_id == 0:
        yield _place(shard.index, leaf.shape), shard.data
  elif jax.process_index() == 0:
    yield _place((slice(None),) * leaf.ndim, leaf.shape), leaf


def _place(index: Sequence[slice], shape: Sequence[int]) -> str:
  bounds = (one.indices(size)[:2] for one, size in zip(index, shape, strict=True))
  return ",".join(f"{start}:{stop}" for start, stop in bounds)


def _slices(place: str) -> tuple[slice, ...]:
  bounds = (one.split(":") for one in place.split(",") if one)
  return tuple(slice(int(start), int(stop)) for start, stop in bounds)


def _digest(data: np.ndarray) -> str:
  return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(data).reshape(-1).view(np.uint8))


def _is_same(leaf: Any, saved: _Array) -> bool:
  if _described(leaf) != {"dtype": saved.dtype, "shape": list(saved.shape)}:
    return False
  if _covered(saved) != int(np.prod(saved.shape)):  # a process's notes are missing
    return False
  if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
    places = {_place(i, leaf.shape) for i in leaf.sharding.devices_indices_map(leaf.shape).values()}
    if places == set(saved.parts):
      own = ((_place(shard.index, leaf.shape), shard.data) for shard in leaf.addressable_shards)
      return all(_digest(np.asarray(data)) == saved.parts[place] for place, data in own)
  whole = _whole(leaf)
  return all(_digest(whole[_slices(p)]) == digest for p, digest in saved.parts.items())


def _covered(saved: _Array) -> int:
  """Number of elements in the parts."""
  sizes = ([one.stop - one.start for one in _slices(place)] for place in saved.parts)
  return sum(int(np.prod(size)) for size in sizes)


def _whole(leaf: Any) -> np.ndarray:
  """A view, where there is one, that does not outlive the check."""
  if not isinstance(leaf, jax.Array):
    return np.asarray(leaf)
  if leaf.is_fully_replicated:
    return np.asarray(leaf.addressable_data(0))
  if leaf.is_fully_addressable:
    return np.asarray(leaf)
  return multihost_utils.process_allgather(leaf, tiled=True)


def _file_name(process: int) -> str:
  return f"process_{process}.json"


def _unsealed(path: epath.Path) -> dict[str, Any]:
  try:
    sealed = json.loads(path.read_text())
    content = atomic_file.unsealed(sealed)
    if content is not sealed:  # as it is where there is no seal
      return content
  except ValueError:
    pass
  raise ValueError(f"{path} is not what was written there")
