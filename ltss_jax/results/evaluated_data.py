"""Which data an evaluation was of, told from its result, and the name that it is kept under."""

import hashlib
import json
from typing import Any

from etils import epath

from ltss_jax.workdir import atomic_file, paths

_NAME = "name"  # of the data set, for people: the same data may go by another one


def result_name(workdir: epath.PathLike, name: int | str, data: dict[str, Any]) -> int | str:
  """The name that an evaluation is kept under, so that no result of other data is written over.

  The plain name is for the data that the run was started with; where no run was, for those that
  were evaluated first.

  Args:
    workdir: the results go to WORKDIR/eval/.
    name: the state's step, or the name of its weights.
    data: description of the evaluated data, by `run_data.evaluated`.

  Returns:
    The name, for other data with `key` of them behind it: "800-1f0c2a3b".

  Raises:
    ValueError: data.json is damaged.
  """
  known = _of_run(workdir)
  if known is None:
    known = _of_result(paths.result(workdir, name))
  return f"{name}-{key(data)}" if differences(known, data) else name


def is_of_other_data(workdir: epath.PathLike, name: int | str, result: dict[str, Any]) -> bool:
  """Whether a result is of other data than those that its folder's plain names are for.

  A result of an older version does not say what it is of, and counts as the run's own.

  Args:
    workdir: workdir of the run, or of the evaluations of weights.
    name: name of the result there.
    result: its content.

  Raises:
    ValueError: data.json is damaged.
  """
  data = result.get("data")
  if not isinstance(data, dict):
    return False
  known = _of_run(workdir)
  if known is None:
    return str(name).endswith(f"-{key(data)}")
  return bool(differences(known, data))


def differences(known: dict[str, Any], data: dict[str, Any]) -> list[str]:
  """Names of the entries that both have and that differ; that of the data set does not count."""
  return [
    entry for entry in data if entry != _NAME and known.get(entry, data[entry]) != data[entry]
  ]


def key(data: dict[str, Any]) -> str:
  """8 hexadecimal digits that stand for the data, whatever they are called."""
  content = {entry: value for entry, value in data.items() if entry != _NAME}
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _of_run(workdir: epath.PathLike) -> dict[str, Any] | None:
  path = paths.data(workdir)
  return atomic_file.read_json(path) if path.exists() else None


def _of_result(path: epath.Path) -> dict[str, Any]:
  """What a result says that is there; nothing where it is damaged and about to be replaced."""
  try:
    result = atomic_file.read_json(path) if path.exists() else {}
  except ValueError:
    return {}
  data = result.get("data") if isinstance(result, dict) else None
  return data if isinstance(data, dict) else {}
