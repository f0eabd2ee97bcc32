"""Prediction: label maps, their pictures and, on request, scores of a folder of images."""

import dataclasses
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath
from jax.sharding import Mesh

from configs import common, models
from input_pipeline import file_access, prediction_files
from input_pipeline.prediction_batches import prediction_batches
from input_pipeline.prediction_files import ImageError
from input_pipeline.prepared import ClassMetadata
from ltss_jax import architectures, build, dataset, mesh as mesh_lib
from ltss_jax.inference import restore, stream
from ltss_jax.prediction import prediction_writer


@dataclasses.dataclass(frozen=True)
class InferenceModel:
  """A model with its weights, ready to predict on this process's devices.

  Attributes:
    metadata: meaning of its labels.
    architecture: the model without the weights.
    params: parameters on `mesh`.
    stats: statistics on `mesh`.
    mesh: mesh of this process's own devices.
    name: name of the weights, for people: "step 800 of runs/demo".
  """

  metadata: ClassMetadata
  architecture: architectures.Architecture
  params: Any
  stats: Any
  mesh: Mesh
  name: str


def load_model(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> InferenceModel:
  """Loads the model of a run, or that of converted weights.

  Args:
    config: config of the model.
    workdir: folder of the run whose checkpoint is used, where no weights are given.
    weights: directory of converted weights.

  Raises:
    ValueError: the config is of another model.
    FileNotFoundError: the classes of the config's folder are gone.
    checkpoint.CheckpointError: the weights cannot be read.
  """
  _check_crop(config)
  if weights is None:
    restore.require_run(workdir)
  metadata = dataset.class_metadata(config)
  architecture = build.build_architecture(
    config,
    num_classes=metadata.num_classes,
    train_stats=dataset.train_stats(config) if config.eval.logit_adjustment else None,
  )
  if weights is None:
    step, *state = restore.of_run(config, workdir, architecture, metadata)
    name = f"step {step} of {workdir}"
    logging.info("Weights of step %d in %s", step, workdir)
  else:
    state = restore.of_directory(config, weights, architecture)
    name = str(weights)
  local = mesh_lib.data_mesh(jax.local_devices())
  params, stats = (mesh_lib.local_replica(tree, local) for tree in state)
  return InferenceModel(metadata, architecture, params, stats, local, name)


def on_one_device(model: InferenceModel) -> InferenceModel:
  """The model on this process's first device alone, for single images."""
  mesh = mesh_lib.data_mesh(jax.local_devices()[:1])
  params, stats = jax.device_put((model.params, model.stats), mesh_lib.replicated(mesh))
  return dataclasses.replace(model, params=params, stats=stats, mesh=mesh)


def predict(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  *,
  source: epath.PathLike,
  output: epath.PathLike,
  weights: epath.PathLike | None = None,
) -> None:
  """Writes NAME.png (labels), NAME_overlay.png and what `config.predict` asks for, of every image.

  Args:
    config: config of the model; `eval` says how images are resized, `predict` what is written.
    workdir: folder of the run whose checkpoint is used, where no weights are given.
    source: folder of images, one image, or a pattern.
    output: folder of the results; those of an earlier prediction are overwritten.
    weights: directory of converted weights.

  Raises:
    ValueError, FileNotFoundError: config, weights or folders are not as they should be; or, after
      all other images were written, some could not be read.
    checkpoint.CheckpointError: the weights cannot be read.
  """
  common.validate(config)
  images = prediction_files.list_images(source, output)
  output = prediction_files.check_output(images, output)
  model = load_model(config, workdir, weights)
  run = _PredictionRun(config, model, output)
  run(images[jax.process_index() :: jax.process_count()])


def _check_crop(config: ml_collections.ConfigDict) -> None:
  """What weights compute may depend on the crop, whose size here no training images give."""
  name, setting = config.model.name, models.crop_setting(config)
  if models.MODELS[name].square_input and not setting:  # its windows are of the crop's size
    setting = f"config.model.name={name!r}"
  if setting and config.data.crop_size == 0:
    raise ValueError(
      f"{setting} needs config.data.crop_size, which is 0: give the one that the model was trained"
      " with"
    )


class _PredictionRun:
  """Predicts files with one model and counts those that it had to skip."""

  def __init__(self, config: ml_collections.ConfigDict, model: InferenceModel, output: epath.Path):
    self._config, self._weights = config, (model.params, model.stats)
    self._predictor = build.build_predictor(
      config, model.architecture, model.mesh, model.metadata.flip_pairs
    )
    self._metadata, self._output = model.metadata, output
    self._failed: list[str] = []

  def __call__(self, images: list[epath.Path]) -> None:
    """Writes the results of all images.

    Raises:
      ValueError: some could not be read or are too large; the results of the others are written.
    """
    options = self._config.predict
    self._writer = prediction_writer.PredictionWriter(
      self._output,
      self._metadata,
      save_summary=options.save_summary,
      save_json=options.save_json,
      part=(jax.process_index(), jax.process_count()),
    )
    batches = prediction_batches(
      images,
      # Full-size scores of many classes fill the host's memory: one image for each device.
      batch_size=1 if options.save_scores else self._config.eval.batch_size,
      multiple=jax.local_device_count(),
      min_size=self._config.eval.min_size,
      max_size=self._config.eval.max_size,
      failed=self._report,
      half_even=self._config.eval.round_half_even,
      max_pixels=options.max_pixels,
    )
    done = 0
    try:
      for one in stream.predictions(
        self._predictor, *self._weights, batches, with_scores=options.save_scores
      ):
        self._writer.write(one.image.path, one.image.original, one.label_map, one.scores)
        done += 1
        logging.log_every_n_seconds(
          logging.INFO, "predicted %d of %d images", 10, done, len(images)
        )
    finally:  # whatever stops it, there are lists of what was done
      self._writer.close()
    logging.info(
      "%d label maps in %s, %d compiled shapes",
      done,
      self._output,
      self._predictor.num_compilations,
    )
    if self._failed:
      names = ", ".join(self._failed[:5]) + (", ..." if len(self._failed) > 5 else "")
      raise ValueError(
        f"{len(self._failed)} of {len(images)} images were skipped ({names}); the log says why"
        + (f", and the results of the other {done} are in {self._output}" if done else "")
      )

  def _report(self, path: epath.Path, error: ImageError) -> None:
    logging.error("%s; skipped", error)
    self._failed.append(file_access.printable(path.name))
    self._writer.write_failure(path, error)
