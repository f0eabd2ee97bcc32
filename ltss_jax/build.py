"""From the config to what runs: the only place where config fields meet models and pipelines."""

import ml_collections
from etils import epath

from input_pipeline import pipeline
from ltss_jax import architectures, optimizer
from ltss_jax.dataset import Dataset
from ltss_jax.models import deeplabv3plus

# Cells of res5 that a training crop covers are its pixels divided by this.
_RES5_STRIDE = 16


def build_architecture(
  config: ml_collections.ConfigDict, dataset: Dataset
) -> architectures.Architecture:
  """The model, loss and inference that `config.model` and `config.loss` ask for."""
  model = config.model
  windowed = model.image_pooling == "window"
  return architectures.deeplabv3plus_architecture(
    deeplabv3plus.DeepLabV3PlusConfig(
      num_classes=dataset.metadata.num_classes,
      backbone=model.backbone,
      dtype=model.dtype,
      aspp_channels=model.aspp_channels,
      aspp_dilations=tuple(model.aspp_dilations),
      aspp_dropout=model.aspp_dropout,
      low_level_channels=model.low_level_channels,
      decoder_channels=model.decoder_channels,
      pooling_window=config.data.crop_size // _RES5_STRIDE if windowed else 0,
    ),
    hard_pixel_fraction=config.loss.hard_pixel_fraction,
    ignore_label=dataset.metadata.ignore_label,
  )


def optimizer_config(config: ml_collections.ConfigDict) -> optimizer.OptimizerConfig:
  """The recipe of `config.optimizer`, over `config.train.steps` updates."""
  return optimizer.OptimizerConfig(steps=config.train.steps, **config.optimizer.to_dict())


def train_pipeline_config(
  config: ml_collections.ConfigDict, dataset: Dataset
) -> pipeline.TrainPipelineConfig:
  """The augmentation and batching of `config.data`."""
  data = config.data
  return pipeline.TrainPipelineConfig(
    batch_size=config.batch_size,
    seed=config.seed,
    crop_size=data.crop_size,
    base_size=data.base_size,
    min_factor=data.min_factor,
    max_factor=data.max_factor,
    max_size=data.max_size,
    color_jitter=data.color_jitter,
    flip=data.flip,
    ignore_label=dataset.metadata.ignore_label,
    flip_pairs=dataset.metadata.flip_pairs,
    num_workers=data.num_workers,
    prefetch=data.prefetch,
  )


def checkpoint_directory(workdir: epath.PathLike) -> epath.Path:
  """Where the checkpoints of a run lie."""
  return epath.Path(workdir) / "checkpoints"
