"""config.json of a workdir: what a run is, and the guard against mixing two runs."""

import json
from typing import Any

import ml_collections
from etils import epath

FILE_NAME = "config.json"

# They change where data lie, how fast and how often things happen, never the trained weights.
_FREE_TO_CHANGE = (
  "data.dir",
  "data.root",
  "data.num_workers",
  "data.prefetch",
  "checkpoint.every_steps",
  "checkpoint.keep",
)
_FREE_GROUPS = ("eval.",)
# What an evaluation of saved weights depends on.
_MODEL_FIELDS = ("data.name", "model.")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def write(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Writes the resolved config of a run as config.json."""
  text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
  (epath.Path(workdir) / FILE_NAME).write_text(text)


def check(
  workdir: epath.PathLike, config: ml_collections.ConfigDict, *, evaluating: bool = False
) -> None:
  """Compares a config with the one that a workdir's checkpoints were trained with.

  Args:
    workdir: of the run; without a config.json there is nothing to compare.
    config: resolved config of this process.
    evaluating: compare the model's fields only.

  Raises:
    ValueError: fields differ; names each with both values.
  """
  path = epath.Path(workdir) / FILE_NAME
  if not path.exists():
    return
  try:
    saved = _flatten(json.loads(path.read_text()))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is not readable as JSON ({error}); restore or remove it") from error
  now = _flatten(json.loads(json.dumps(config.to_dict())))

  def compared(field: str) -> bool:
    if evaluating:
      return field.startswith(_MODEL_FIELDS)
    return field not in _FREE_TO_CHANGE and not field.startswith(_FREE_GROUPS)

  different = [
    f"  config.{field}: {saved.get(field, 'absent')!r} there, {now.get(field, 'absent')!r} now"
    for field in sorted(saved.keys() | now.keys())
    if compared(field) and saved.get(field) != now.get(field)
  ]
  if different:
    raise ValueError(
      f"{workdir} holds a run of another config:\n"
      + "\n".join(different)
      + "\nUse another --workdir, or the config of that run."
    )
