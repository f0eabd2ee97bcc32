"""config.json of a workdir: what a run is, and the guard against mixing two runs."""

import json
import math
from typing import Any

import ml_collections
from etils import epath

from configs import common, models
from ltss_jax.workdir import atomic_file

FILE_NAME = "config.json"

# They change where data lie, how fast and how often things happen, never the trained weights.
_FREE_TO_CHANGE = (
  "compilation_cache",
  "data.dir",
  "data.root",
  "data.ignore_label",  # data.json has the one that labels were read with
  "data.num_workers",
  "data.prefetch",
  "train.max_nonfinite_steps",
  "train.log_images_every_steps",
  "train.log_images",
  "train.report",
  "train.wandb_project",
  "train.profile_steps",
  "checkpoint.every_steps",
  "checkpoint.keep",
)
# On another mesh, as with another number of devices, sums are rounded otherwise, nothing more.
_FREE_GROUPS = ("eval.", "predict.", "export.", "mesh.")
# Of the fields below `eval`, those that no score depends on.
_NOT_SCORING = ("every_steps", "batch_size", "save_json", "step")
# Weights fit one value of every field of `config.model`, except of those of training alone and of
# how numbers are computed. Fields that are not named here are compared, new ones among them, but
# for those of other models.
_NOT_OF_WEIGHTS = (
  "dtype",
  "remat",
  "scan_blocks",
  "freeze_backbone",
  "drop_path",
  "max_targets",
  "pixel_head",
  "deformable_attention",
  "aspp_dropout",
)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Dotted names -> values of a config's dict; tuples become lists, as JSON has them."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = list(value) if isinstance(value, tuple) else value
  return flat


def fits_weights(model: str, field: str) -> bool:
  """Whether weights fit one value of a field alone.

  Args:
    model: `config.model.name`.
    field: name of a field of `config.model`, such as "num_queries".
  """
  return field not in _NOT_OF_WEIGHTS and field not in models.fields_of_others(model)


def scoring_fields(options: dict[str, Any]) -> dict[str, Any]:
  """The fields below `eval` that scores depend on, as JSON has them.

  Args:
    options: all fields below `eval`.
  """
  return {name: value for name, value in flatten(options).items() if name not in _NOT_SCORING}


def write(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Writes the resolved config of a run as config.json."""
  content = json.loads(json.dumps(config.to_dict(), sort_keys=True))
  atomic_file.write_json(epath.Path(workdir) / FILE_NAME, content, indent=2)


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
  """The config.json of a run as nested dicts; None where there is none.

  Raises:
    ValueError: the file is damaged, or was edited.
  """
  path = epath.Path(workdir).expanduser() / FILE_NAME
  if not path.exists():
    return None
  return atomic_file.read_json(path)


def check(
  workdir: epath.PathLike, config: ml_collections.ConfigDict, *, evaluating: bool = False
) -> None:
  """Compares a config with the one that a workdir's checkpoints were trained with.

  A run of constant learning rate (`optimizer.poly_power` 0) may have more steps than before. Fields
  that are newer than the run count as their defaults, with which a run is what it was before.

  Args:
    workdir: workdir of the run; without a config.json there is nothing to compare.
    config: resolved config of this process.
    evaluating: compare only what inference depends on.

  Raises:
    ValueError: fields differ; names each with both values.
  """
  saved = read(workdir)
  if saved is None:
    return
  saved = flatten(common.get_config().to_dict()) | flatten(saved)
  now = flatten(json.loads(json.dumps(config.to_dict())))

  model, with_crop = config.model.name, bool(models.crop_setting(config))

  def compared(field: str) -> bool:
    if evaluating:
      group, _, name = field.partition(".")
      fitted = group == "model" and fits_weights(model, name)
      return fitted or field == "data.name" or (field == "data.crop_size" and with_crop)
    return field not in _FREE_TO_CHANGE and not field.startswith(_FREE_GROUPS)

  different = [
    f"  config.{field}: {saved.get(field, 'absent')!r} there, {now.get(field, 'absent')!r} now"
    for field in sorted(saved.keys() | now.keys())
    if compared(field) and saved.get(field) != now.get(field)
  ]
  grows = not evaluating and now["train.steps"] > saved.get("train.steps", math.inf)
  if grows and now["optimizer.poly_power"] == 0:  # Its rates do not follow from its length.
    different = [line for line in different if not line.startswith("  config.train.steps:")]
  if different:
    advice = "Use another --workdir, or the config of that run."
    if grows:
      advice += (
        f" Its learning rate falls to 0 over config.train.steps={saved['train.steps']}, so that it"
        " cannot go on: to train longer, start from its weights with"
        f" --config.init.checkpoint={workdir}"
      )
    raise ValueError(
      f"{workdir} holds a run of another config:\n" + "\n".join(different) + f"\n{advice}"
    )


def note_growth(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> None:
  """Writes config.json anew where a run that `check` lets go on is to have more steps.

  Args:
    workdir: workdir of the run.
    config: resolved config of this process.
  """
  saved = read(workdir)
  if saved is not None and saved["train"]["steps"] < config.train.steps:
    write(workdir, config)


def check_weights(
  directory: epath.PathLike,
  info: dict[str, Any],
  config: ml_collections.ConfigDict,
  num_classes: int,
) -> None:
  """Compares a config with the model that converted weights are of.

  Args:
    directory: directory of the weights, for the message.
    info: facts beside them: "contents" ("model" or "backbone"), "num_classes" and "model",
      the fields of `config.model`.
    config: config of this process.
    num_classes: number of classes of the config's data set.

  Raises:
    ValueError: they differ; names each field with both values. Or they are of a backbone alone.
  """
  if info.get("contents") == "backbone":
    raise ValueError(
      f"the weights in {directory} are those of a backbone alone, which predicts nothing; train"
      " from them with --config.init.checkpoint"
    )
  now, saved = flatten(config.model.to_dict()), flatten(info.get("model", {}))
  different = [
    f"  config.model.{name}: {saved.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} now"
    for name in sorted(saved.keys() | now.keys())
    if fits_weights(config.model.name, name) and saved.get(name) != now.get(name)
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


def check_crop(
  directory: epath.PathLike, info: dict[str, Any], config: ml_collections.ConfigDict
) -> None:
  """Compares the crop where weights fit one alone, for a prediction with converted weights.

  Args:
    directory: directory of the weights, for the message.
    info: facts beside them; "crop_size" in px, which conversions of before lack. Without it,
      or where it is 0 for a crop that the data decide, there is nothing to compare.
    config: config of this process, of the same model.

  Raises:
    ValueError: the crops differ.
  """
  saved, now = info.get("crop_size"), config.data.crop_size
  setting = models.crop_setting(config)
  if setting and saved and saved != now:
    raise ValueError(
      f"the weights in {directory} have {setting} with windows for crops of {saved} px, but"
      f" config.data.crop_size is {now}; set --config.data.crop_size={saved}"
    )
