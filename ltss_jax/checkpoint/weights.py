"""Weights without training state, as the conversion writes them."""

from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from ltss_jax.checkpoint import loading
from ltss_jax.checkpoint.contents import Contents
from ltss_jax.checkpoint.loading import CheckpointError


def save_weights(directory: epath.PathLike, params: Any, stats: Any, info: dict[str, Any]) -> None:
  """Writes weights without training state, as `--checkpoint` and `init.checkpoint` read them.

  Args:
    directory: local path or gs://; must not hold anything yet.
    params: nested dicts of arrays.
    stats: likewise.
    info: JSON-like facts about the weights, such as the model's fields.

  Raises:
    CheckpointError: the directory is in use or cannot be written.
  """
  path = loading.absolute(directory)
  if path.exists():
    raise CheckpointError(f"{path} exists already; choose another directory or remove it first")
  tree = {"params": params, "stats": stats}
  items = {loading.STATE: tree, loading.CONTENTS: Contents(tree, {"info": info})}
  try:
    ocp.save_checkpointables(path, items, custom_metadata=info)
  except Exception as error:
    raise CheckpointError(
      f"could not write the weights to {path}: {loading.reason(error)}"
    ) from error


def read_info(directory: epath.PathLike) -> dict[str, Any]:
  """The facts that `save_weights` wrote beside the weights, which are not read.

  Args:
    directory: directory of the weights.

  Raises:
    DamagedCheckpointError: they are not what was saved.
    CheckpointError: there are no such weights.
  """
  path = loading.absolute(directory)
  if not path.exists():
    raise CheckpointError(f"{path} does not exist; give the directory that the conversion wrote")
  contents = loading.read_contents(path, _name(path))
  try:
    info = dict(ocp.metadata(path).custom_metadata or {})
  except Exception as error:
    if contents:
      raise loading.damaged(_name(path), loading.reason(error)) from error
    raise CheckpointError(
      f"{path} holds no converted weights ({loading.reason(error)}); `python -m ltss_jax.convert`"
      " makes them"
    ) from error
  if contents and loading.differ(info, contents.facts["info"]):
    raise loading.damaged(_name(path), "the facts beside the arrays are not those that were saved")
  return info


def load_weights(directory: epath.PathLike) -> tuple[Any, Any, dict[str, Any]]:
  """Reads what `save_weights` wrote.

  Args:
    directory: directory of the weights.

  Returns:
    (params, stats, info), params and stats as nested dicts of numpy arrays.

  Raises:
    DamagedCheckpointError: they are not what was saved.
    CheckpointError: there are no such weights, or they cannot be read.
  """
  info = read_info(directory)
  path = loading.absolute(directory)
  tree = loading.load_arrays(path, _name(path))
  return tree["params"], tree.get("stats", {}), info


def _name(path: epath.Path) -> str:
  return f"the checkpoint of weights {path}"
