"""Reading one checkpoint, of a run or of weights, with a check of what comes back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from ltss_jax.checkpoint.contents import Contents

# Items of a checkpoint: arrays, the state of the data iterator, and what they must come back as.
STATE, DATA, CONTENTS = "state", "data", "contents"
_NUM_NAMED = 5  # of the arrays that differ


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read; the message says which and why."""


class DamagedCheckpointError(CheckpointError):
  """A checkpoint is not what was saved; the message says which and what of it."""


def absolute(directory: epath.PathLike) -> epath.Path:
  """The path as Orbax takes it, which takes no relative one."""
  path = epath.Path(directory).expanduser()
  return path if "://" in str(directory) else path.absolute()


def reason(error: BaseException) -> str:
  """First line of what went wrong first; Orbax wraps it, sometimes in another error's words."""
  while error.__cause__ is not None:
    error = error.__cause__
  return (str(error).strip() or repr(error)).splitlines()[0][:500]


def read_contents(path: epath.Path, what: str) -> Contents | None:
  """What a checkpoint must come back as; None for those of versions that did not note it.

  Args:
    path: path of the checkpoint.
    what: its name for messages.

  Raises:
    DamagedCheckpointError: that is damaged itself.
  """
  if not (path / CONTENTS).exists():
    return None
  contents = Contents()
  try:
    ocp.load_checkpointables(path, {CONTENTS: contents})
  except Exception as error:
    raise _unreadable(path, what, error, intact=True) from error
  return contents


def load(path: epath.Path, what: str, items: dict[str, Any]) -> dict[str, Any]:
  """Reads items as they are asked for.

  Args:
    path: path of the checkpoint.
    what: its name for messages.
    items: STATE, a tree of ShapeDtypeStructs with shardings, all of the saved ones; and maybe DATA,
      JSON-like. Entries of the tree without arrays may be newer than the checkpoint.

  Returns:
    The items.

  Raises:
    DamagedCheckpointError: they are not what was saved.
    CheckpointError: others were saved than are asked for, or the checkpoint cannot be read.
  """
  contents = read_contents(path, what)
  if contents is None:
    logging.warning("%s is of an older version, which noted nothing to check it by", what)
  else:
    _check_fit(contents, what, items)
  try:
    loaded = _load_entries(path, items)
  except Exception as error:
    raise _unreadable(path, what, error, intact=contents is not None) from error
  if contents is not None:
    check(what, contents.damages(loaded[STATE]))
    if DATA in items and differ(loaded[DATA], contents.facts[DATA]):
      raise damaged(what, f"its data state is {loaded[DATA]}, not {contents.facts[DATA]}")
  return loaded


def _load_entries(path: epath.Path, items: dict[str, Any]) -> dict[str, Any]:
  """The items; Orbax is not asked for empty entries of the tree that were not saved."""
  children, structure = jax.tree_util.tree_flatten_with_path(
    items[STATE], is_leaf=lambda node: node is not items[STATE]
  )
  entries = {jax.tree_util.keystr(key, simple=True): child for key, child in children}
  saved = ocp.metadata(path).metadata
  asked = {name: tree for name, tree in entries.items() if name in saved or jax.tree.leaves(tree)}
  loaded = dict(ocp.load_checkpointables(path, items | {STATE: asked}))
  loaded[STATE] = structure.unflatten((entries | loaded[STATE]).values())
  return loaded


def load_arrays(path: epath.Path, what: str, entries: Sequence[str] = ()) -> dict[str, Any]:
  """Reads arrays whatever their structure.

  Args:
    path: path of the checkpoint.
    what: its name for messages.
    entries: entries of the tree's first level, such as "params"; all where none are given.

  Returns:
    Those of the entries that were saved by name, nested dicts of numpy arrays.

  Raises:
    DamagedCheckpointError: they are not what was saved.
    CheckpointError: the checkpoint cannot be read.
  """
  contents = read_contents(path, what)
  if contents is None:
    logging.warning("%s is of an older version, which noted nothing to check it by", what)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    tree = ocp.metadata(path).metadata
    there = [entry for entry in entries or tree if entry in tree]
    wanted = {entry: jax.tree.map(lambda _: np.ndarray, tree[entry]) for entry in there}
    with context:
      loaded = ocp.load_checkpointables(path, {STATE: wanted})[STATE]
  except Exception as error:
    raise _unreadable(path, what, error, intact=contents is not None) from error
  if contents is not None:
    check(what, contents.damages(loaded, within=entries))
  return _number_keys(loaded)


def check(what: str, damages: Sequence[str]) -> None:
  """Raises a DamagedCheckpointError where there are damaged arrays."""
  if damages:
    more = f" and {len(damages) - 1} more arrays" if damages[1:] else ""
    raise damaged(what, f"{damages[0]}{more} came back as other values than were saved")


def damaged(what: str, problem: str) -> DamagedCheckpointError:
  """The error of a checkpoint that has other contents than were saved."""
  return DamagedCheckpointError(
    f"{what} is damaged: {problem}. Restore its folder from a copy, or remove it."
  )


def differ(value: Any, noted: Any) -> bool:
  """Whether JSON-like values differ, in their types as well."""
  return json.dumps(value, sort_keys=True) != json.dumps(noted, sort_keys=True)


def _check_fit(contents: Contents, what: str, items: Mapping[str, Any]) -> None:
  problems = contents.misfits(items[STATE])
  if DATA in items:
    noted = contents.facts[DATA]
    problems += [
      f"! {key}: saved as {noted.get(key)!r}, asked for as {type(value).__name__}"
      for key, value in items[DATA].items()
      if type(noted.get(key)) is not type(value)
    ]
  if problems:
    more = [f"... and {len(problems) - _NUM_NAMED} more"] if problems[_NUM_NAMED:] else []
    lines = "\n  ".join(problems[:_NUM_NAMED] + more)
    raise CheckpointError(f"{what} holds something else than is asked for:\n  {lines}")


def _unreadable(path: epath.Path, what: str, error: Exception, *, intact: bool) -> CheckpointError:
  """The error of a checkpoint that fails to load.

  Args:
    path: path of the checkpoint.
    what: its name for messages.
    error: Orbax's error.
    intact: whether what is asked for is known to be saved: only damage or the disk remains.
  """
  if not intact or not path.exists():
    return CheckpointError(f"could not read {what}: {reason(error)}")
  try:
    for folder, _, names in path.walk():
      for name in names:
        (folder / name).read_bytes()
  except OSError as failure:
    return CheckpointError(f"could not read {what}: {failure}")
  return damaged(what, reason(error))


def _number_keys(tree: Any) -> Any:
  """Turns the keys of lists, which are written as text, into numbers again."""
  if not isinstance(tree, dict):
    return tree
  return {
    int(key) if isinstance(key, str) and key.isdigit() else key: _number_keys(value)
    for key, value in tree.items()
  }
