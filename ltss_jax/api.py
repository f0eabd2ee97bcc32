"""The interface for other Python programs: load a model, call it with images."""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from etils import epath
from PIL import Image, ImageOps

from configs import common, models
from configs.fields import field_names
from input_pipeline import datasets, decode, deep_images, inference_batches, prediction_files
from ltss_jax import build, checkpoint
from ltss_jax.inference import stream
from ltss_jax.prediction import predict
from ltss_jax.visualization import palette, region_names
from ltss_jax.workdir import paths, run_config


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
  """What a model says about an image.

  Attributes:
    labels: class of every pixel, uint8 (uint16 for more than 256 classes) [H, W], at the image's
      own size.
    classes: names of the C classes; `classes[labels[y, x]]` is the name at a pixel.
    image: the image itself, upright RGB, uint8 [H, W, 3].
  """

  labels: np.ndarray
  classes: tuple[str, ...]
  image: np.ndarray
  _compute_scores: Callable[[], np.ndarray] = dataclasses.field(repr=False)

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """Scores of all classes, float32 [C, H, W], computed when first asked for.

    Their argmax are the labels, except where two classes are equal but for rounding. They take
    4 bytes per class and pixel.
    """
    return self._compute_scores()

  def overlay(self, names: bool = True) -> np.ndarray:
    """The image with the classes' colours over it, uint8 [H, W, 3].

    Args:
      names: whether to write the classes' names at their regions.
    """
    colors = palette.class_colors(len(self.classes))
    picture = palette.overlay(self.image, self.labels, colors)
    return region_names.draw_names(picture, self.labels, self.classes) if names else picture


class Model:
  """A model on this process's first device; `load` makes it.

  Attributes:
    classes: names of its classes.
    config: config that it was loaded with.
  """

  def __init__(self, config: ml_collections.ConfigDict, model: predict.InferenceModel):
    model = predict.on_one_device(model)
    self.config, self.classes = config, model.metadata.class_names
    self._weights = model.params, model.stats
    self._predictor = build.build_predictor(
      config, model.architecture, model.mesh, model.metadata.flip_pairs
    )

  def __call__(self, image: str | os.PathLike | Image.Image | np.ndarray) -> Segmentation:
    """Segments one image; each new shape of the model's input compiles once.

    Args:
      image: an image file, a PIL image, or RGB as uint8 or uint16 [H, W, 3], where 16 bits are
        scaled to 8. Files and PIL images are turned upright by their EXIF orientation.

    Raises:
      ValueError: the image cannot be read, is too large, or the array is no RGB image.
    """
    image = self._read(image)  # [H, W, 3]
    options = self.config.eval
    batch = inference_batches.single_batch(
      image, options.min_size, options.max_size, half_even=options.round_half_even
    )
    (one,) = stream.predictions(self._predictor, *self._weights, [batch])
    dtype = prediction_files.label_dtype(len(self.classes))

    def scores() -> np.ndarray:
      return self._predictor.scores(*self._weights, batch.image, [image.shape[:2]])[0]

    return Segmentation(one.label_map.astype(dtype), self.classes, image, scores)

  def _read(self, image: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """RGB, upright, uint8 [H, W, 3]."""
    limit = self.config.predict.max_pixels
    if isinstance(image, str | os.PathLike):
      path = epath.Path(image).expanduser()
      prediction_files.image_size(path, limit)
      return prediction_files.read_image(path)
    if isinstance(image, Image.Image):
      prediction_files.check_size("the image", image.height, image.width, limit)
      try:
        shallow, note = deep_images.reduced(image)
      except ValueError as error:
        raise ValueError(f"the image cannot be taken: {error}") from error
      pixels = np.array(decode.upright_rgb(ImageOps.exif_transpose(shallow)))  # of a copy
    else:
      pixels, note = _rgb_array(image)
      prediction_files.check_size("the image", *pixels.shape[:2], limit)
    if note:
      logging.warning("the image: %s", note)
    return pixels


def _rgb_array(image: np.ndarray) -> tuple[np.ndarray, str]:
  """RGB, uint8 [H, W, 3], and what the user should know of its values, or ""."""
  shape, dtype = np.shape(image), getattr(image, "dtype", type(image).__name__)
  if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] != 3 or 0 in shape:
    raise ValueError(
      f"the image is an array of type {dtype} and shape {shape}; give RGB as uint8 or uint16"
      " [H, W, 3], a PIL image or a path"
    )
  if dtype == np.uint16:
    return deep_images.to_8_bits(np.asarray(image))
  return np.asarray(image), ""


def load(
  checkpoint_path: str | os.PathLike,
  *,
  config: ml_collections.ConfigDict | None = None,
  step: int = checkpoint.LATEST,
) -> Model:
  """Loads a model.

  Args:
    checkpoint_path: workdir of a run, or directory of converted weights.
    config: config of the model. None takes that of the run, or for converted weights that of the
      data set that they were converted for; `config.eval` says how images are resized.
    step: step of a run: its number, 0 for the latest, -1 for the best by mIoU.

  Raises:
    ValueError: the config does not fit the weights, or none can be found.
    FileNotFoundError, checkpoint.CheckpointError: there is no such checkpoint, or it cannot be
      read.
  """
  path = epath.Path(checkpoint_path).expanduser()
  if not path.is_dir():
    raise checkpoint.CheckpointError(
      f"{path} does not exist; give the workdir of a run, or a directory that `python -m "
      "ltss_jax.convert` wrote"
    )
  is_run = paths.checkpoints(path).exists()
  if config is None:
    config = _config_of_run(path) if is_run else _config_of_weights(path)
  else:
    config = config.copy_and_resolve_references()
  config.eval.step = step
  common.validate(config)
  return Model(config, predict.load_model(config, path, None if is_run else path))


def _config_of_run(workdir: epath.Path) -> ml_collections.ConfigDict:
  """The config that a run wrote; fields that are newer than the run have their defaults."""
  saved = run_config.read(workdir)
  if saved is None:
    path = workdir / run_config.FILE_NAME
    raise ValueError(f"{path} does not exist; give load(..., config=...) the config of the run")
  config = common.get_config()
  for name in field_names(config):
    *groups, field = name.split(".")
    values: Any = saved
    for group in groups:
      values = values.get(group, {})
    if field in values:
      value = values[field]
      _set(config, name, tuple(value) if isinstance(value, list) else value)
  return config


def _config_of_weights(directory: epath.Path) -> ml_collections.ConfigDict:
  """The config file of the data set, with the model that stands beside the weights."""
  info = checkpoint.read_info(directory)
  data, model = info.get("data", ""), dict(info.get("model", {}))
  if data not in common.CHOICES["data.name"] or datasets.find_spec(data).takes_root:
    raise ValueError(
      f"the weights in {directory} are of the data set {data!r}, which names no classes; give"
      " load(..., config=...) a config of configs/folder.py with data.root set"
    )
  variants = {"model": model.get("name"), "backbone": model.get("backbone")}
  known = [f"{key}={value}" for key, value in variants.items() if value in common.VARIANTS[key]]
  config = importlib.import_module(f"configs.{data}").get_config(",".join(known))
  for name, value in model.items():
    if name in config.model:
      _set(config, f"model.{name}", tuple(value) if isinstance(value, list) else value)
  if info.get("crop_size"):  # pooling windows follow from it
    is_square = models.MODELS[config.model.name].square_input
    if is_square and config.eval.min_size == config.data.crop_size:
      config.eval.min_size = info["crop_size"]  # windows along the longer side alone
    config.data.crop_size = info["crop_size"]
  return config


def _set(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
  config.update_from_flattened_dict({name: value})
