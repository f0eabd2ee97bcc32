"""config.json of a workdir: what a run is, and the guard against mixing two runs."""

import json
from typing import Any

import ml_collections
from etils import epath

from ltss_jax import whole_file

FILE_NAME = "config.json"

# They change where data lie, how fast and how often things happen, never the trained weights.
_FREE_TO_CHANGE = (
  "data.dir",
  "data.root",
  "data.num_workers",
  "data.prefetch",
  "train.max_nonfinite_steps",
  "train.log_images_every_steps",
  "train.log_images",
  "train.report",
  "train.wandb_project",
  "checkpoint.every_steps",
  "checkpoint.keep",
)
_FREE_GROUPS = ("eval.", "predict.", "export.")
# Of the fields below `eval`, those that no score depends on.
_NOT_SCORING = ("every_steps", "batch_size", "save_json", "step")
# What the names and shapes of weights, and what they compute, depend on; of every model ...
_MODEL_FIELDS = ("name", "backbone", "backbone_norm")
# ... and of each.
_OWN_FIELDS = {
  "mask2former": (
    "channels",
    "num_queries",
    "encoder_layers",
    "decoder_layers",
    "num_heads",
    "encoder_width",
    "decoder_width",
    "class_head",
  ),
  "deeplabv3plus": (
    "aspp_channels",
    "aspp_dilations",
    "low_level_channels",
    "decoder_channels",
    "image_pooling",
  ),
}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Dotted names -> values of a config's dict; tuples become lists, as JSON has them."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def inference_fields(model: str) -> tuple[str, ...]:
  """Names of the `config.model` fields that fit weights to a model, such as "num_queries"."""
  return (*_MODEL_FIELDS, *_OWN_FIELDS[model])


def scoring_fields(options: dict[str, Any]) -> dict[str, Any]:
  """The fields below `eval` that scores depend on, as JSON has them.

  Args:
    options: all fields below `eval`.
  """
  return {name: value for name, value in flatten(options).items() if name not in _NOT_SCORING}


def write(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Writes the resolved config of a run as config.json."""
  content = json.loads(json.dumps(config.to_dict(), sort_keys=True))
  whole_file.write_json(epath.Path(workdir) / FILE_NAME, content, indent=2)


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
  """The config.json of a run as nested dicts; None where there is none.

  Raises:
    ValueError: the file is damaged, or was edited.
  """
  path = epath.Path(workdir).expanduser() / FILE_NAME
  if not path.exists():
    return None
  return whole_file.read_json(path)


def check(
  workdir: epath.PathLike, config: ml_collections.ConfigDict, *, evaluating: bool = False
) -> None:
  """Compares a config with the one that a workdir's checkpoints were trained with.

  Args:
    workdir: of the run; without a config.json there is nothing to compare.
    config: resolved config of this process.
    evaluating: compare only what inference depends on.

  Raises:
    ValueError: fields differ; names each with both values.
  """
  saved = read(workdir)
  if saved is None:
    return
  saved = flatten(saved)
  now = flatten(json.loads(json.dumps(config.to_dict())))

  inference = {"data.name", *(f"model.{field}" for field in inference_fields(config.model.name))}
  if now.get("model.image_pooling") == "window":  # whose size follows from the crop's
    inference.add("data.crop_size")

  def compared(field: str) -> bool:
    if evaluating:
      return field in inference
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


def check_weights(
  directory: epath.PathLike,
  info: dict[str, Any],
  config: ml_collections.ConfigDict,
  num_classes: int,
) -> None:
  """Compares a config with the model that converted weights are of.

  Args:
    directory: of the weights, for the message.
    info: that stands beside them: "contents" ("model" or "backbone"), "num_classes" and "model",
      the fields of `config.model`.
    config: of this process.
    num_classes: of the config's data set.

  Raises:
    ValueError: they differ; names each field with both values. Or they are of a backbone alone.
  """
  if info.get("contents") == "backbone":
    raise ValueError(
      f"the weights in {directory} are those of a backbone alone, which predicts nothing; train"
      " from them with --config.init.checkpoint"
    )
  model = config.model.name
  now, saved = flatten(config.model.to_dict()), flatten(info.get("model", {}))
  different = [
    f"  config.model.{field}: {saved.get(field, 'absent')!r} there, {now[field]!r} now"
    for field in inference_fields(model)
    if saved.get(field) != now[field]
  ]
  if info.get("num_classes") != num_classes:
    different.append(
      f"  classes: {info.get('num_classes', 'absent')!r} there, {num_classes} of config.data.name="
      f"{config.data.name!r} now"
    )
  if different:
    raise ValueError(
      f"the weights in {directory} are of another model:\n"
      + "\n".join(different)
      + "\nGive the config that they were converted with, or other weights."
    )
