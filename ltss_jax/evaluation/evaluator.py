"""Evaluating states of a run or converted weights: counts, result, eval/<name>.json."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from input_pipeline import prediction_files
from ltss_jax import build, mesh as mesh_lib
from ltss_jax.dataset import Dataset, prepare_run
from ltss_jax.evaluation import examples, validation_split
from ltss_jax.evaluation.confusion import confusion_matrix
from ltss_jax.inference import coco_rle, restore, stream
from ltss_jax.results import evaluated_data, evaluation_result
from ltss_jax.workdir import atomic_file, paths, run_config, run_data

# Images on which the effect of rounded input shapes is measured, spread over the split.
_SAMPLE_IMAGES = 32


class Evaluator:
  """Scores states of one architecture on the validation split.

  Attributes:
    architecture: the model.
    predictor: predictor on this process's devices, with programs of all shapes evaluated so far.
  """

  def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.PathLike):
    """Sets up; nothing is read or compiled yet.

    Args:
      config: resolved config.
      dataset: data set of the run.
      workdir: folder of the run; results go to WORKDIR/eval/<name>.json.

    Raises:
      ValueError: config.eval.batch_size does not divide over the devices.
    """
    self.architecture = build.build_architecture(
      config,
      num_classes=dataset.metadata.num_classes,
      train_stats=dataset.train_stats,
    )
    self._config, self._dataset = config, dataset
    self._workdir = workdir
    mesh_lib.check_batch_size(
      "config.eval.batch_size", config.eval.batch_size, jax.device_count(), "devices"
    )
    self._mesh = mesh_lib.data_mesh(jax.local_devices())
    self.predictor = build.build_predictor(
      config, self.architecture, self._mesh, dataset.metadata.flip_pairs
    )

  def __call__(
    self,
    name: int | str,
    params: Any,
    stats: Any,
    interrupt: Callable[[], None] = lambda: None,
  ) -> dict[str, Any]:
    """Evaluates one state and writes its results, <name>.json and <name>_confusion.npz.

    `config.eval.save_json` asks for <name>_predictions.json as well.

    Args:
      name: step of the state, or name of its weights.
      params: parameters on a mesh of all devices, divided or not.
      stats: statistics, likewise.
      interrupt: called after every image; what it raises ends the evaluation before anything is
        written.

    Returns:
      The result, as in eval/<name>.json.
    """
    dataset, options = self._dataset, self._config.eval
    weights = [mesh_lib.local_replica(tree, self._mesh) for tree in (params, stats)]
    entries: dict[int, list[dict[str, Any]]] = {}

    def visit(one: stream.Prediction) -> None:
      interrupt()
      if options.save_json:
        entries[one.image.index] = coco_rle.label_entries(
          one.label_map, dataset.metadata.dataset_ids, one.image.file_name
        )

    confusion = confusion_matrix(
      self.predictor,
      *weights,
      validation_split.batches(dataset, options, shape_multiple=options.shape_multiple),
      num_classes=dataset.metadata.num_classes,
      ignore_label=dataset.metadata.ignore_label,
      visit=visit,
    )
    result = evaluation_result.make_result(
      confusion,
      class_names=dataset.metadata.class_names,
      train_images=dataset.train_stats.images_with_class,
      train_pixel_share=dataset.train_stats.pixel_share_sum,
      image_groups=dataset.image_groups,
      pixel_groups=dataset.pixel_groups,
    )
    result |= {"data": self.data, "eval": run_config.scoring_fields(options.to_dict())}
    if options.shape_multiple > 1:
      result["rounded_shapes"] = self._effect_of_rounding(*weights)
    if options.save_json:
      self._write_entries(name, entries)
    if jax.process_index() == 0:
      # The result comes last: where it is, its counts are too.
      with atomic_file.atomic_write(paths.confusion(self._workdir, name)) as file:
        np.savez_compressed(file, confusion=confusion)
      evaluation_result.write_result(result, paths.result(self._workdir, name))
    what = f"step {name}" if isinstance(name, int) else name
    logging.info("%s: %s", what, evaluation_result.summary_line(result))
    return result

  def _effect_of_rounding(self, params: Any, stats: Any) -> dict[str, Any]:
    """Share of a sample's pixels whose label is another one at the exact shape."""
    options = self._config.eval
    multiple = options.shape_multiple
    number = len(self._dataset.val_counts)
    sample = np.unique(np.linspace(0, number - 1, _SAMPLE_IMAGES).astype(int)).tolist()
    label_maps, shapes = [], []
    for sides in (multiple, 1):
      split = validation_split.batches(self._dataset, options, shape_multiple=sides)
      part = validation_split.batches(self._dataset, options, shape_multiple=sides, only=sample)
      predicted = stream.predictions(self.predictor, params, stats, part)
      label_maps.append({one.image.index: one.label_map for one in predicted})
      shapes.append(len(split.shapes))
    rounded, exact = label_maps
    different = sum(int(np.sum(rounded[index] != exact[index])) for index in exact)
    pixels = sum(label.size for label in exact.values())
    different, pixels = mesh_lib.sum_over_processes(np.array([[different, pixels]]))[0].tolist()
    share = round(100 * different / pixels, evaluation_result.PERCENT_DIGITS)
    logging.info(
      "config.eval.shape_multiple=%d: %d input shapes instead of %d; %s %% of the pixels of %d "
      "sampled images have another label than at their exact shapes",
      multiple,
      *shapes,
      share,
      len(sample),
    )
    return {"shape_multiple": multiple, "sample_images": len(sample), "changed_pixels": share}

  def _write_entries(self, name: int | str, entries: dict[int, list[dict[str, Any]]]) -> None:
    """Process 0 writes the entries of all processes, in the order of the records."""
    parts = mesh_lib.gather_bytes(json.dumps(entries).encode())
    if jax.process_index() == 0:
      every = {int(index): part for text in parts for index, part in json.loads(text).items()}
      path = paths.predictions(self._workdir, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      writer = prediction_files.JsonListWriter(path)
      for index in sorted(every):
        for entry in every[index]:
          writer.write(entry)
      writer.close()

  def saved_result(self, name: int | str) -> dict[str, Any]:
    """The result that was written for a step, or for weights of a name.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged.
    """
    path = paths.result(self._workdir, name)
    if not path.exists():
      raise FileNotFoundError(f"{path} does not exist; --mode=evaluate writes it anew")
    return atomic_file.read_json(path, "--mode=evaluate writes it anew")

  @functools.cached_property
  def data(self) -> dict[str, Any]:
    """What results say of the data that they are of."""
    return run_data.evaluated(self._dataset)


def scalars(result: dict[str, Any]) -> dict[str, float]:
  """The result's totals and groups under names for TensorBoard: "eval/mIoU_image_rare", ..."""
  flat = {f"eval/{name}": result[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")}
  for level in ("image", "pixel"):
    for group, value in result[f"{level}_level"].items():
      flat[f"eval/mIoU_{level}_{group}"] = value
  return {name: value for name, value in flat.items() if value is not None}


def evaluate_checkpoint(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Scores a saved step, `config.eval.step`, or converted weights.

  Args:
    config: config of the run or of the weights; only what inference does not depend on may differ.
    workdir: folder of the run; the results go there.
    weights: directory of converted weights, scored instead of the run's.

  Returns:
    The result, which is also written to WORKDIR/eval/<step>.json; of converted weights to
    WORKDIR/eval/<name of their directory>.json. Where that is kept for other data, the key of these
    data is part of the name.

  Raises:
    ValueError: the config is of another model.
    checkpoint.CheckpointError: there is no such checkpoint.
  """
  workdir = epath.Path(workdir).expanduser()
  if weights is None:
    restore.require_run(workdir)
  config, dataset = prepare_run(config)
  evaluation = Evaluator(config, dataset, workdir)
  if weights is None:
    name, *state = restore.of_run(config, workdir, evaluation.architecture, dataset.metadata)
  else:
    name = epath.Path(weights).name
    if name.isdigit():  # whose result would be that of a step
      raise ValueError(f"--checkpoint={weights}: rename the folder, so that it is no number")
    state = restore.of_directory(config, weights, evaluation.architecture)
  name = _name_kept(workdir, name, evaluation.data)
  result = evaluation(name, *state)
  if jax.process_index() == 0 and config.train.report:
    chosen = examples.Examples(config, dataset, evaluation.predictor)
    examples.keep(chosen, *state, paths.examples(workdir, name))
  return result


def _name_kept(workdir: epath.Path, name: int | str, data: dict[str, Any]) -> int | str:
  """The name that the results go under; says so where the plain one is kept for other data."""
  kept = evaluated_data.result_name(workdir, name, data)
  if kept != name:
    logging.info(
      "These are other data (%s, %d validation images) than those of %s: the results go to %s",
      data["name"],
      data["val_images"],
      paths.result(workdir, name),
      paths.result(workdir, kept),
    )
  return kept
