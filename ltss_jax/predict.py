"""Prediction: label maps, their pictures and, on request, scores of a folder of images."""

from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from configs import common
from input_pipeline import prediction_files, prediction_pipeline
from input_pipeline.prediction_files import ImageError
from input_pipeline.prediction_pipeline import PredictionBatch
from ltss_jax import build, dataset, evaluate, inference_weights, mesh as mesh_lib, palette


def predict(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  source: epath.PathLike,
  output: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> None:
  """Writes NAME.png (labels), NAME_overlay.png and, on request, NAME.npz (scores) of every image.

  Args:
    config: of the model; `eval` says how images are resized, `predict` what is written.
    workdir: of the run whose checkpoint is used, where no weights are given.
    source: folder of images, or one image.
    output: folder of the results; those of an earlier prediction are overwritten.
    weights: directory of converted weights.

  Raises:
    ValueError, FileNotFoundError: config, weights or folders are not as they should be; or, after
      all other images were written, some could not be read.
    checkpoint.CheckpointError: the weights cannot be read.
  """
  common.validate(config)
  images = prediction_files.list_images(source)
  output = prediction_files.check_output(images, output)
  _check_pooling(config)
  if weights is None:
    inference_weights.require_run(workdir)
  metadata = dataset.class_metadata(config)
  architecture = build.build_architecture(
    config,
    num_classes=metadata.num_classes,
    ignore_label=metadata.ignore_label,
    mesh=mesh_lib.data_mesh(),
    train_stats=dataset.train_stats(config) if config.eval.logit_adjustment else None,
    training=False,
  )
  if weights is None:
    step, *state = inference_weights.of_run(config, workdir, architecture)
    logging.info("Weights of step %d in %s", step, workdir)
  else:
    state = inference_weights.of_directory(config, weights, architecture)
  local = mesh_lib.data_mesh(jax.local_devices())
  params, stats = (evaluate.local_replica(tree, local) for tree in state)
  predictor = evaluate.Predictor(architecture, local)
  run = _PredictionRun(config, predictor, params, stats, metadata.num_classes, output)
  run(images[jax.process_index() :: jax.process_count()])


def _check_pooling(config: ml_collections.ConfigDict) -> None:
  """The size of pooling windows follows from the crop, which here no training images give."""
  model = config.model
  windowed = model.name == "deeplabv3plus" and model.image_pooling == "window"
  if windowed and config.data.crop_size == 0:
    raise ValueError(
      "config.model.image_pooling='window' needs config.data.crop_size, which is 0: give the one"
      " that the model was trained with"
    )


class _PredictionRun:
  """Predicts files with one set of weights and counts those that could not be read."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    predictor: evaluate.Predictor,
    params: Any,
    stats: Any,
    num_classes: int,
    output: epath.Path,
  ):
    self._config, self._predictor, self._weights = config, predictor, (params, stats)
    self._dtype = prediction_files.label_dtype(num_classes)
    self._colors = palette.class_colors(num_classes)
    self._output = output
    self._failed: list[str] = []

  def __call__(self, images: list[epath.Path]) -> None:
    """Writes the results of all images.

    Raises:
      ValueError: some could not be read; the results of the others are written.
    """
    self._output.mkdir(parents=True, exist_ok=True)
    save_scores = self._config.predict.save_scores
    devices = jax.local_device_count()
    batches = prediction_pipeline.prediction_batches(
      images,
      # Full-size scores of many classes fill the host's memory: one image for each device.
      batch_size=1 if save_scores else self._config.eval.batch_size,
      multiple=devices,
      min_size=self._config.eval.min_size,
      max_size=self._config.eval.max_size,
      failed=self._report,
    )
    done = 0
    for path, image, label, scores in (self._scored if save_scores else self._labelled)(batches):
      self._write(path, image, label, scores)
      done += 1
      logging.log_every_n_seconds(logging.INFO, "predicted %d of %d images", 10, done, len(images))
    logging.info(
      "%d label maps in %s, %d compiled shapes",
      done,
      self._output,
      self._predictor.num_compilations,
    )
    if self._failed:
      names = ", ".join(self._failed[:5]) + (", ..." if len(self._failed) > 5 else "")
      raise ValueError(
        f"{len(self._failed)} of {len(images)} images could not be read ({names}); the results of "
        f"the other {done} are in {self._output}"
      )

  def _labelled(self, batches: Iterator[PredictionBatch]) -> Iterator[tuple]:
    """Yields (path, image [H, W, 3], label [H, W], None)."""
    pending = None
    for batch in batches:
      own = batch.image.shape[1:3]
      sizes = [own if image is None else image.shape[:2] for image in batch.originals]
      labels = self._predictor(*self._weights, batch.image, sizes)
      if pending is not None:  # The device works on this batch while the last one is written.
        yield from _rows(*pending)
      pending = (batch, labels)
    if pending is not None:
      yield from _rows(*pending)

  def _scored(self, batches: Iterator[PredictionBatch]) -> Iterator[tuple]:
    """Yields (path, image [H, W, 3], label [H, W], scores [C, H, W])."""
    for batch in batches:
      sizes = [(1, 1) if image is None else image.shape[:2] for image in batch.originals]
      scores = self._predictor.scores(*self._weights, batch.image, sizes)
      for row, path in enumerate(batch.paths):
        if path is not None:
          yield path, batch.originals[row], scores[row].argmax(0), scores[row]

  def _write(
    self, path: epath.Path, image: np.ndarray, label: np.ndarray, scores: np.ndarray | None
  ) -> None:
    names = prediction_files.output_names(path)
    label_path, overlay_path, scores_path = (self._output / name for name in names)
    prediction_files.write_png(label_path, label.astype(self._dtype))
    prediction_files.write_png(overlay_path, palette.overlay(image, label, self._colors))
    if scores is not None:
      prediction_files.write_scores(scores_path, scores)

  def _report(self, path: epath.Path, error: ImageError) -> None:
    logging.error("%s; skipped", error)
    self._failed.append(path.name)


def _rows(batch: PredictionBatch, labels: jax.Array) -> Iterator[tuple]:
  labels = np.asarray(labels)
  for path, image, label in zip(batch.paths, batch.originals, labels, strict=True):
    if path is not None:
      height, width = image.shape[:2]
      yield path, image, label[:height, :width], None
