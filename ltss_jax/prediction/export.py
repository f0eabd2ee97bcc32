"""Export of a model as a program for other software: StableHLO that needs only JAX to run."""

import json
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax import export as jax_export

from configs import common
from input_pipeline import checked_files, prediction_files
from ltss_jax import architectures
from ltss_jax.inference import score_maps, sliding_window
from ltss_jax.inference.predictor import Predictor
from ltss_jax.prediction import exported_program, predict
from ltss_jax.prediction.exported_program import METADATA_FILE, PROGRAM_FILE, WEIGHTS_FILE
from ltss_jax.workdir import run_config

# The share of pixels whose label must equal the model's own; scores that are equal but for rounding
# may change places.
_LEAST_AGREEMENT = 0.999


def export(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  output: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Writes a model's program, its weights and what a user of them has to know, and checks them.

  Args:
    config: config of the model; `export` says for which inputs and platforms.
    workdir: workdir of the run whose checkpoint is used, where no weights are given.
    output: folder of the files, which replace those of an earlier export.
    weights: directory of converted weights.

  Returns:
    The metadata, as in metadata.json.

  Raises:
    ValueError: the config, the output or the weights are not as they should be, or the model
      cannot be exported so.
    RuntimeError: the exported program predicts other labels than the model.
    checkpoint.CheckpointError: the weights cannot be read.
  """
  common.validate(config)
  output = epath.Path(output).expanduser()
  prediction_files.check_writable(output)
  config = portable(config if weights else sized_as_run(config, workdir))
  size = input_size(config)
  logging.info("The program takes images of %d x %d px (height x width)", *size)
  model = predict.on_one_device(predict.load_model(config, workdir, weights))
  leaves, structure = jax.tree.flatten((model.params, model.stats))
  program = program_of(
    inference_function(model.architecture, structure, with_scores=config.export.scores),
    leaves,
    size,
    batch_size=config.export.batch_size,
    platforms=tuple(config.export.platforms),
  )
  output.mkdir(parents=True, exist_ok=True)
  for name in (checked_files.SUMS_FILE, METADATA_FILE):  # they come again if the check succeeds
    (output / name).unlink(missing_ok=True)
  (output / PROGRAM_FILE).write_bytes(program.serialize())
  _write_weights(output / WEIGHTS_FILE, (model.params, model.stats))
  metadata = _metadata(config, model, size) | exported_program.versions(program)
  metadata["check"] = check(output, model, config, size)
  (output / METADATA_FILE).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
  checked_files.write_sums(output, (PROGRAM_FILE, WEIGHTS_FILE, METADATA_FILE))
  logging.info("Exported %s to %s", model.name, output)
  return metadata


def portable(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with plain deformable attention, unless "auto" stands for TPUs alone.

  JAX guarantees that stored programs with TPU kernels go on running, but not those with Triton's.
  """
  config = config.copy_and_resolve_references()
  for_tpus = tuple(config.export.platforms) == ("tpu",)
  if config.model.deformable_attention == "auto" and not for_tpus:
    config.model.deformable_attention = "xla"
  return config


def sized_as_run(
  config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> ml_collections.ConfigDict:
  """The config with the crop and the test size of a run, where it leaves the crop to the images.

  Args:
    config: config whose `data.crop_size` the run has resolved from its images, if it is 0.
    workdir: workdir of the run; without a config.json the config stays as it is.

  Raises:
    ValueError: config.json is damaged.
  """
  saved = run_config.flatten(run_config.read(workdir) or {})
  if config.data.crop_size or not saved:
    return config
  config = config.copy_and_resolve_references()
  config.data.crop_size = saved.get("data.crop_size", 0)
  if not config.eval.min_size:
    config.eval.min_size = saved.get("eval.min_size", 0)
  logging.info(
    "As in the run of %s: config.data.crop_size=%d, config.eval.min_size=%d",
    workdir,
    config.data.crop_size,
    config.eval.min_size,
  )
  return config


def input_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
  """(height, width) in pixels of the exported model's input.

  Raises:
    ValueError: neither `export` nor `eval` nor `data` gives it.
  """
  sides = {}
  for field in ("height", "width"):
    sides[field] = config.export[field] or config.eval.min_size or config.data.crop_size
    if not sides[field]:
      raise ValueError(
        f"config.export.{field}=0 stands for config.eval.min_size or config.data.crop_size, which"
        f" are 0 too; give the input's size, as in --config.export.{field}=512"
      )
  return sides["height"], sides["width"]


def inference_function(
  architecture: architectures.Architecture, structure: Any, *, with_scores: bool
) -> Callable[[list[jax.Array], jax.Array], dict[str, jax.Array]]:
  """The function that is exported.

  Args:
    architecture: the model; one of square inputs sees windows.
    structure: tree structure of its (params, stats).
    with_scores: whether it returns scores too.

  Returns:
    (leaves of (params, stats), uint8 RGB [B, H, W, 3]) -> {"labels": [B, H, W], uint8 or uint16;
    "scores": float32 [B, H, W, C]}.
  """
  num_classes, whole = architecture.num_classes, sliding_window.any_size(architecture)
  dtype = prediction_files.label_dtype(num_classes)

  def infer(leaves: list[jax.Array], image: jax.Array) -> dict[str, jax.Array]:
    size = image.shape[1:3]
    pixels = math.prod(sliding_window.padded_size(architecture, size))
    params, stats = jax.tree.unflatten(structure, leaves)
    predictions = whole.predict(params, stats, architectures.normalize(image))

    def of_one(prediction):
      blocks = whole.score_blocks(prediction, size)
      result = {"labels": score_maps.argmax(blocks, num_classes, pixels)}
      result["labels"] = result["labels"].astype(dtype)
      return result | ({"scores": blocks(0, num_classes)} if with_scores else {})

    return jax.lax.map(of_one, predictions)

  return infer


def program_of(
  function: Callable,
  leaves: list[jax.Array],
  size: tuple[int, int],
  *,
  batch_size: int,
  platforms: tuple[str, ...],
) -> jax_export.Exported:
  """Lowers the function of `inference_function` for platforms that need not be there.

  Args:
    function: that function.
    leaves: its weights, of which only shapes and types count.
    size: (height, width) of its images in pixels.
    batch_size: number of its images; 0 for any.
    platforms: platforms by jax.export's names.

  Raises:
    ValueError: an operation of the model does not exist on one of the platforms.
  """
  batch = batch_size or jax_export.symbolic_shape("batch")[0]
  weights = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
  image = jax.ShapeDtypeStruct((batch, *size, 3), np.uint8)
  try:
    return jax_export.export(jax.jit(function), platforms=platforms)(weights, image)
  except (NotImplementedError, ValueError) as error:  # Pallas raises the latter for platforms.
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"the model cannot be exported for config.export.platforms={platforms!r} ({reason}); with "
      "--config.model.deformable_attention=xla it uses plain operations"
    ) from error


def _write_weights(path: epath.Path, tree: Any) -> None:
  """Writes the leaves in their order, under the names of their paths."""
  named = jax.tree_util.tree_leaves_with_path(tree)
  arrays = {
    f"{i:04d}{jax.tree_util.keystr(keys, simple=True, separator='.')}": np.asarray(leaf)
    for i, (keys, leaf) in enumerate(named)
  }
  with path.open("wb") as file:
    np.savez(file, **arrays)


def _metadata(
  config: ml_collections.ConfigDict, model: predict.InferenceModel, size: tuple[int, int]
) -> dict[str, Any]:
  batch = config.export.batch_size or "any"
  num_classes = model.metadata.num_classes
  outputs = {
    "labels": {"shape": [batch, *size], "dtype": prediction_files.label_dtype(num_classes).__name__}
  }
  if config.export.scores:
    outputs["scores"] = {"shape": [batch, *size, num_classes], "dtype": "float32"}
  return {
    "format": 1,
    "input": {
      "shape": [batch, *size, 3],
      "dtype": "uint8",
      "meaning": "RGB, upright, not normalised: mean and standard deviation are in the program",
    },
    "outputs": outputs,
    "classes": list(model.metadata.class_names),
    "dataset": model.metadata.name,
    "dataset_ids": list(model.metadata.dataset_ids),
    "platforms": list(config.export.platforms),
    "model": config.model.name,
    "backbone": config.model.backbone,
    "deformable_attention": config.model.deformable_attention,
    "dtype": config.eval.dtype,
    "weights": model.name,
  }


def check(
  directory: epath.Path,
  model: predict.InferenceModel,
  config: ml_collections.ConfigDict,
  size: tuple[int, int],
) -> dict[str, Any]:
  """Reads what was written and compares its labels with the model's own.

  Args:
    directory: directory of the program and the weights.
    model: the exported model, on one device.
    config: config that it was exported with.
    size: (height, width) of the program's images in pixels.

  Returns:
    {"platform", "equal_labels"}: the share of pixels with the model's label; None where the program
    is for other platforms than this one.

  Raises:
    RuntimeError: too many labels differ.
  """
  platform = jax_export.default_export_platform()
  if platform not in config.export.platforms:
    logging.warning(
      "Not checked: the program is for %s, and this is %s", config.export.platforms, platform
    )
    return {"platform": platform, "equal_labels": None}
  program = exported_program.read_program(directory, jax.__version__)
  leaves = exported_program.read_weights(directory)
  image = _test_images(config.export.batch_size or 2, size)
  exported = np.asarray(program.call(leaves, image)["labels"])
  predictor = Predictor(model.architecture, model.mesh)
  expected = np.asarray(predictor(model.params, model.stats, image, [size] * len(image)))
  share = float((exported == expected[:, : size[0], : size[1]]).mean())
  if share < _LEAST_AGREEMENT:
    raise RuntimeError(
      f"the program in {directory} gives only {100 * share:.2f} % of the pixels the model's label;"
      " do not use it, and report this with the config and the version of JAX"
    )
  logging.info("The exported program gives %.4f %% of the pixels the model's label", 100 * share)
  return {"platform": platform, "equal_labels": share}


def _test_images(count: int, size: tuple[int, int]) -> np.ndarray:
  """Coloured patches with noise, uint8 [count, H, W, 3]."""
  rng = np.random.default_rng(0)
  rows, columns = (np.arange(side) * 8 // side for side in size)
  patches = rng.integers(32, 224, (count, 8, 8, 3))[:, rows][:, :, columns]
  return (patches + rng.integers(-32, 32, patches.shape)).astype(np.uint8)
