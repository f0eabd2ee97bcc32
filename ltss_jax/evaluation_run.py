"""Evaluating states of a run or converted weights: counts, results record, eval/<name>.json."""

import json
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from input_pipeline import eval_pipeline, prepared
from ltss_jax import build, evaluate, inference_weights, mesh as mesh_lib, results
from ltss_jax.dataset import Dataset, prepare_run


class EvaluationRun:
  """Scores states of one architecture on the validation split."""

  def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.PathLike):
    """Sets up; nothing is read or compiled yet.

    Args:
      config: resolved.
      dataset: of the run.
      workdir: results go to WORKDIR/eval/<name>.json.

    Raises:
      ValueError: config.eval.batch_size does not divide over the devices.
    """
    self.architecture = build.build_architecture(
      config,
      num_classes=dataset.metadata.num_classes,
      ignore_label=dataset.metadata.ignore_label,
      mesh=mesh_lib.data_mesh(),
      train_stats=dataset.train_stats,
    )
    self._config, self._dataset = config, dataset
    self._directory = epath.Path(workdir) / "eval"
    mesh_lib.check_batch_size(
      "config.eval.batch_size", config.eval.batch_size, jax.device_count(), "devices"
    )
    self._mesh = mesh_lib.data_mesh(jax.local_devices())
    self._predictor = evaluate.Predictor(self.architecture, self._mesh)

  def __call__(self, name: int | str, params: Any, stats: Any) -> dict[str, Any]:
    """Evaluates one state and writes its results.

    Args:
      name: the state's step, or the name of its weights.
      params: replicated over all devices.
      stats: likewise.

    Returns:
      The record of eval/<name>.json.
    """
    dataset, options = self._dataset, self._config.eval
    counts = dataset.val_counts
    batches = eval_pipeline.EvalBatches(
      prepared.open_source(dataset.directory, "val"),
      (counts.height, counts.width),
      batch_size=options.batch_size,
      min_size=options.min_size,
      max_size=options.max_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    confusion = evaluate.confusion_matrix(
      self._predictor,
      evaluate.local_replica(params, self._mesh),
      evaluate.local_replica(stats, self._mesh),
      batches,
      num_classes=dataset.metadata.num_classes,
      ignore_label=dataset.metadata.ignore_label,
    )
    record = results.make_record(
      confusion,
      class_names=dataset.metadata.class_names,
      train_images=dataset.train_stats.images_with_class,
      train_pixel_share=dataset.train_stats.pixel_share_sum,
      image_groups=dataset.image_groups,
      pixel_groups=dataset.pixel_groups,
    )
    if jax.process_index() == 0:
      results.write_record(record, self._path(name))
    what = f"step {name}" if isinstance(name, int) else name
    logging.info("%s: %s", what, results.summary_line(record))
    return record

  def results(self, name: int | str) -> dict[str, Any]:
    """The record that was written for a step, or for weights of a name.

    Raises:
      FileNotFoundError: there is none.
    """
    path = self._path(name)
    if not path.exists():
      raise FileNotFoundError(f"{path} does not exist; --mode=evaluate writes it anew")
    return json.loads(path.read_text())

  def _path(self, name: int | str) -> epath.Path:
    return self._directory / f"{name}.json"


def scalars(record: dict[str, Any]) -> dict[str, float]:
  """The record's totals and groups under names for TensorBoard: "eval/mIoU_image_rare", ..."""
  flat = {f"eval/{name}": record[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")}
  for level in ("image", "pixel"):
    for group, value in record[f"{level}_level"].items():
      flat[f"eval/mIoU_{level}_{group}"] = value
  return {name: value for name, value in flat.items() if value is not None}


def evaluate_checkpoint(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Scores a saved step, `config.eval.step`, or converted weights.

  Args:
    config: of the run or of the weights; only what inference does not depend on may differ.
    workdir: of the run; the results go there.
    weights: directory of converted weights, to be scored instead of the run's.

  Returns:
    The record, which is also written to WORKDIR/eval/<step>.json; of converted weights to
    WORKDIR/eval/<name of their directory>.json.

  Raises:
    ValueError: the config is of another model.
    checkpoint.CheckpointError: there is no such checkpoint.
  """
  workdir = epath.Path(workdir).expanduser()
  if weights is None:
    inference_weights.require_run(workdir)
  config, dataset = prepare_run(config)
  evaluation = EvaluationRun(config, dataset, workdir)
  if weights is None:
    name, *state = inference_weights.of_run(config, workdir, evaluation.architecture)
  else:
    name = epath.Path(weights).name
    state = inference_weights.of_directory(config, weights, evaluation.architecture)
  return evaluation(name, *state)
