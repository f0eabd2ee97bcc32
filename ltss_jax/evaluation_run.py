"""Evaluating the states of one run: counts, results record, eval/<step>.json, final table."""

import json
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from input_pipeline import eval_pipeline, prepared
from ltss_jax import (
  build,
  checkpoint,
  evaluate,
  mesh as mesh_lib,
  optimizer,
  results,
  run_config,
  train_step,
)
from ltss_jax.dataset import Dataset, prepare_run

LATEST, BEST = 0, -1  # values of config.eval.step beside step numbers


class EvaluationRun:
  """Scores states of one architecture on the validation split."""

  def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, workdir: epath.PathLike):
    """Sets up; nothing is read or compiled yet.

    Args:
      config: resolved.
      dataset: of the run.
      workdir: results go to WORKDIR/eval/<step>.json.

    Raises:
      ValueError: config.eval.batch_size does not divide over the devices.
    """
    self.architecture = build.build_architecture(config, dataset)
    self._config, self._dataset = config, dataset
    self._directory = epath.Path(workdir) / "eval"
    mesh_lib.check_batch_size(
      "config.eval.batch_size", config.eval.batch_size, jax.device_count(), "devices"
    )
    self._mesh = mesh_lib.data_mesh(jax.local_devices())
    self._predictor = evaluate.Predictor(self.architecture, self._mesh)

  def __call__(self, step: int, params: Any, stats: Any) -> dict[str, Any]:
    """Evaluates one state and writes its results.

    Args:
      step: of the state.
      params: replicated over all devices.
      stats: likewise.

    Returns:
      The record of eval/<step>.json.
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
      results.write_record(record, self._path(step))
    logging.info("step %d: %s", step, results.summary_line(record))
    return record

  def results(self, step: int) -> dict[str, Any]:
    """The record that was written for a step.

    Raises:
      FileNotFoundError: there is none.
    """
    path = self._path(step)
    if not path.exists():
      raise FileNotFoundError(f"{path} does not exist; --mode=evaluate writes it anew")
    return json.loads(path.read_text())

  def _path(self, step: int) -> epath.Path:
    return self._directory / f"{step}.json"


def scalars(record: dict[str, Any]) -> dict[str, float]:
  """The record's totals and groups under names for TensorBoard: "eval/mIoU_image_rare", ..."""
  flat = {f"eval/{name}": record[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")}
  for level in ("image", "pixel"):
    for group, value in record[f"{level}_level"].items():
      flat[f"eval/mIoU_{level}_{group}"] = value
  return {name: value for name, value in flat.items() if value is not None}


def evaluate_checkpoint(
  config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> dict[str, Any]:
  """Scores a saved step, `config.eval.step`: a step's number, 0 the latest, -1 the best by mIoU.

  Args:
    config: of the run; fields below `eval` may differ.
    workdir: of the run.

  Returns:
    The record, which is also written to WORKDIR/eval/<step>.json.

  Raises:
    ValueError: the config is of another model.
    checkpoint.CheckpointError: there is no such checkpoint.
  """
  workdir = epath.Path(workdir).expanduser()
  directory = build.checkpoint_directory(workdir)
  if not directory.exists():
    raise checkpoint.CheckpointError(
      f"{directory} does not exist: --workdir={workdir} holds no trained model. Train one first "
      "with the same command and --mode=train."
    )
  config, dataset = prepare_run(config)
  run_config.check(workdir, config, evaluating=True)
  evaluation = EvaluationRun(config, dataset, workdir)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), evaluation.architecture.decays
  )
  mesh = mesh_lib.data_mesh()
  with checkpoint.Checkpoints(directory, config.checkpoint.keep) as saved:
    wanted = config.eval.step
    if wanted == BEST and saved.best_step is None:
      raise checkpoint.CheckpointError(
        f"config.eval.step={BEST} asks for the best checkpoint, but none in {directory} was "
        f"evaluated in training; steps there: {saved.steps}, and 0 is the latest"
      )
    step = {LATEST: None, BEST: saved.best_step}.get(wanted, wanted)
    abstract = train_step.abstract_state(evaluation.architecture, transform, mesh)
    state, _ = saved.restore(abstract, step=step)
  return evaluation(int(state.step), state.params, state.stats)
