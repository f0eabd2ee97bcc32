"""Converts published checkpoints to weights for this project, and back.

python -m ltss_jax.convert --config=configs/coco_stuff_lt.py --source=FILE --output=DIR
python -m ltss_jax.convert --config=configs/coco_stuff_lt.py --to=detectron2 --source=DIR \
  --output=FILE.pkl
python -m ltss_jax.convert --config=configs/ade20k.py:model=eomt,backbone=dinov2_l --to=eomt \
  --source=DIR --output=FILE.safetensors

See docs/conversion.md.
"""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from configs import flags as config_parsing
from input_pipeline import datasets
from ltss_jax import architectures, build, checkpoint, console, dataset
from ltss_jax.inference import restore
from ltss_jax.weights import (
  describe,
  differences,
  eomt_release,
  hub,
  imagenet,
  names,
  official,
  readers,
  trees,
  whole_models,
)
from ltss_jax.weights.conversion_report import Report
from ltss_jax.workdir import paths

# Whose format to write -> ending of the file.
_SUFFIXES = {"detectron2": ".pkl", "eomt": ".safetensors"}


def convert(
  config: ml_collections.ConfigDict,
  source: str | pathlib.Path,
  output: epath.PathLike,
  weights: str = "",
  base: str = "",
) -> Report:
  """Reads a published checkpoint and writes it as `--checkpoint` and `init.checkpoint` read it.

  Args:
    config: says which model and, by its data set, how many classes.
    source: a whole model or a backbone: .pkl, .pth, .safetensors, the index of several files,
      their folder, or an address hf://OWNER/NAME[@REVISION][/FILE].
    output: new directory. It holds what the file has: a backbone alone if the file is one.
    weights: name of a set of weights of a file with several, such as an average beside them.
    base: file or address of the original encoder, where the source holds differences to it; "none"
      says that it holds none.

  Returns:
    What was converted, dropped, and is missing in the file.

  Raises:
    ValueError: the file is damaged, refused, or does not fit the config; says how.
    checkpoint.CheckpointError: the output cannot be written.
  """
  if epath.Path(output).exists():
    raise ValueError(f"--output={output} exists already; choose another directory or remove it")
  arrays = readers.read_arrays(source, weights)
  try:
    params, stats, info, done = _fit(config, arrays, base)
  except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
  info["source"] = _name(source)
  if base not in ("", differences.NONE):
    info["base"] = _name(base)
  classes = _class_names(config, info["num_classes"])
  if classes is not None:
    info["classes"] = classes
  checkpoint.save_weights(output, params, stats, info)
  return done


def _name(source: str | pathlib.Path) -> str:
  """What the info of weights says of where they come from: an address, or the name of a file."""
  return str(source) if hub.is_address(source) else pathlib.Path(source).absolute().name


def _fit(
  config: ml_collections.ConfigDict, arrays: dict[str, np.ndarray], base: str
) -> tuple[Any, Any, dict[str, Any], Report]:
  """Returns (params, stats, info, report) of a file's arrays, for the config's model."""
  model, done, may_miss, backbone = config.model.name, Report(), None, None
  whole = whole_models.recognise(arrays)
  if whole is None:
    differences.refuse(base)
    backbone = imagenet.recognise(arrays)
    arrays = backbone.arrays
  else:
    arrays = whole.to_official(arrays, done)
    arrays = differences.completed(arrays, base, _original_dinov3, done)
  found = describe.describe(arrays, config.model.class_head)
  table = datasets.find_spec(config.data.name).class_table  # None where nobody publishes one
  describe.check(
    found,
    model=model,
    backbone=config.model.backbone,
    class_head=config.model.class_head,
    data=config.data.name,
    num_classes=table and table.metadata.num_classes,
    settings={field: config[field] for field in found.settings},
  )
  params, stats = abstract_weights(config, found.num_classes or 1)
  if backbone is not None:
    params, stats = ({k: v for k, v in t.items() if k == "backbone"} for t in (params, stats))
    imagenet.fit_tables(backbone, official.official_shapes(model, params, stats))
    done.dropped += backbone.dropped
    done.changed += backbone.changed
    may_miss = backbone.afresh
  params, stats = official.load_official(model, params, stats, arrays, may_miss=may_miss, done=done)
  info = {
    "contents": "backbone" if backbone else "model",
    "crop_size": config.data.crop_size,
    "data": config.data.name,
    "model": config.model.to_dict(),
    "num_classes": found.num_classes,
  }
  return params, stats, info, done


def _original_dinov3(source: str) -> dict[str, np.ndarray]:
  """Official name -> array, of the file of an original DINOv3."""
  arrays = readers.read_arrays(source)
  try:
    return imagenet.recognise_dinov3(arrays)
  except ValueError as error:
    raise ValueError(f"--base={source}: {error}") from error


def _class_names(config: ml_collections.ConfigDict, num_classes: int | None) -> list[str] | None:
  """Names of the classes, by which a training that starts from the weights arranges them.

  None for a backbone, and where the config's data set has no names at hand or others in number.
  """
  if num_classes is None:
    return None
  if datasets.find_spec(config.data.name).takes_root:  # which need not be on this machine
    root = config.data.root
    if not root or not (epath.Path(root).expanduser() / "classes.txt").exists():
      return None
  names_of_data = dataset.class_metadata(config).class_names
  return list(names_of_data) if len(names_of_data) == num_classes else None


def abstract_weights(config: ml_collections.ConfigDict, num_classes: int) -> tuple[Any, Any]:
  """(params, stats) of the config's model as shapes, without what training alone uses."""
  init = build.model_functions(config, num_classes).init
  params, stats = jax.eval_shape(lambda: init(jax.random.key(0)))
  return trees.without(params, names.TRAINING_ONLY), trees.without(stats, names.TRAINING_ONLY)


def export(
  config: ml_collections.ConfigDict,
  source: epath.PathLike,
  output: str | pathlib.Path,
  to: str = "detectron2",
) -> int:
  """Writes weights as the released checkpoints of their model are.

  Args:
    config: config of the model.
    source: a converted directory, or the workdir of a training run; of a run, `config.eval.step`
      says which checkpoint.
    output: new file: .pkl of detectron2, .safetensors of EoMT.
    to: whose format to write, a key of `_SUFFIXES`.

  Returns:
    The number of names written.

  Raises:
    ValueError: the output is no new file of the format, the model has no such format, or the
      weights are of another model or not finite.
    checkpoint.CheckpointError: there are no weights, or they cannot be read.
  """
  output, suffix = pathlib.Path(output), _SUFFIXES[to]
  usual = "eomt" if config.model.name == "eomt" else "detectron2"
  if to != usual:
    raise ValueError(f"--to={to} has no names for model={config.model.name}; give --to={usual}")
  if output.suffix != suffix or output.exists():
    reason = "exists already" if output.exists() else f"is no {suffix} file"
    raise ValueError(f"--output={output} {reason}; name a new file that ends in {suffix}")
  params, stats = _read_weights(config, source)
  saved = trees.flatten(params) | trees.flatten(stats)
  params, stats, num_classes = _as_in_model(config, saved, source)
  advice = "take an earlier step of a run with --config.eval.step=N, or convert another checkpoint"
  restore.require_finite(params, stats, str(source), advice)
  arrays = official.to_official(config.model.name, params, stats)
  if to == "eomt":
    arrays = eomt_release.from_official(arrays, num_classes, config.model.num_blocks)
    readers.write_safetensors(output, arrays)
  else:
    readers.write_pickle(output, arrays)
  return len(arrays)


def _read_weights(config: ml_collections.ConfigDict, source: epath.PathLike) -> tuple[Any, Any]:
  """Returns (params, stats) of a converted directory or of a training run."""
  if hub.is_address(source):
    raise ValueError(
      f"--source={source} is a published file; --to writes what is in a converted directory or in"
      " the workdir of a run: give one of these"
    )
  directory = paths.checkpoints(epath.Path(source).expanduser())
  if not directory.exists():
    params, stats, _ = checkpoint.load_weights(source)
    return params, stats
  return restore.read_run(source, config.eval.step)[1:]


def _as_in_model(
  config: ml_collections.ConfigDict, saved: dict[str, np.ndarray], source: epath.PathLike
) -> tuple[Any, Any, int]:
  """Arranges saved leaves as the config's model has them; they must be of that model.

  What training alone uses is left out. The last of the result is the number of classes, 1 of a
  backbone alone.
  """
  saved = {path: leaf for path, leaf in saved.items() if not names.TRAINING_ONLY.match(path)}
  num_classes = 1
  params, stats = abstract_weights(config, num_classes)
  bias = f"{architectures.SPECS[config.model.name].class_layers[0]}/bias"
  is_whole = bias in saved
  if is_whole:
    num_others = len(trees.flatten(params)[bias]) - 1
    num_classes = len(saved[bias]) - num_others
    params, stats = abstract_weights(config, num_classes)
  shapes = trees.flatten(params) | trees.flatten(stats)
  wrong = [
    f"{path} {leaf.shape}"
    for path, leaf in saved.items()
    if path not in shapes or shapes[path].shape != leaf.shape
  ]
  if is_whole:  # a backbone alone may be incomplete
    wrong += [f"{path} (not saved)" for path in shapes if path not in saved]
  if wrong:
    raise ValueError(
      f"{source} holds other weights than the config's {config.model.name} with"
      f" {config.model.backbone}, such as {wrong[0]}; {len(wrong)} names differ. Give the config"
      " that they were converted or trained with"
    )
  return trees.fill(params, saved), trees.fill(stats, saved), num_classes


def _define_flags() -> None:
  config_flags.DEFINE_config_file(
    "config", None, "Config file and its variants, FILE[:key=value,...].", lock_config=True
  )
  flags.DEFINE_enum("to", "ltss_jax", ["ltss_jax", *_SUFFIXES], "Whose format to write.")
  flags.DEFINE_string(
    "source",
    None,
    "What to read: a file, a folder or hf://OWNER/NAME[/FILE]; with another --to a directory.",
  )
  flags.DEFINE_string(
    "weights", "", "Which set of weights of a file with several; the log names them."
  )
  flags.DEFINE_string(
    "base",
    "",
    "File or hf:// address of the original DINOv3, for EoMT files of differences to it; or none.",
  )
  flags.DEFINE_string("output", None, "What to write: a new directory or, with another --to, file.")
  flags.mark_flags_as_required(["config", "source", "output"])


def main(argv: list[str]) -> None:
  """Converts as the flags say and prints the report."""
  del argv
  console.setup_logging()
  values = flags.FLAGS
  with console.one_message_per_error():
    if values.to != "ltss_jax":
      for flag in ("weights", "base"):
        if values[flag].value:
          raise ValueError(
            f"--{flag}={values[flag].value} is for a published file; --to={values.to} reads none:"
            " leave it out"
          )
      count = export(values.config, values.source, values.output, values.to)
      print(f"{count} names written to {values.output}")
    else:
      print(convert(values.config, values.source, values.output, values.weights, values.base))
      print(f"The weights are in {values.output}")


if __name__ == "__main__":
  _define_flags()
  app.run(main, flags_parser=config_parsing.parse_flags)
