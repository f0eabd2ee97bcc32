"""The library's settings as build.py makes them of configs/common.py; tests change what they need.

Models compute in float32, and every `fields` overwrites fields of the dataclass that is returned.
"""

import dataclasses

from configs import common
from input_pipeline import copy_paste as copy_paste_lib, pipeline as pipeline_lib, transforms
from ltss_jax import build
from ltss_jax.architectures import (
  eomt as architectures_eomt,
  mask2former as architectures_mask2former,
  per_pixel,
)
from ltss_jax.build import model as build_model
from ltss_jax.build.fields import fields_of
from ltss_jax.losses import class_losses, mask_criterion
from ltss_jax.losses.class_loss_type import ClassLoss
from ltss_jax.models import backbones, deeplabv3plus, eomt, mask2former
from ltss_jax.optimizer import OptimizerConfig

CROSS_ENTROPY = class_losses.CrossEntropy()


def _config(**fields):
  config = common.get_config()
  config.update_from_flattened_dict({"model.dtype": "float32"} | fields)
  return config


def backbone(name: str, **fields) -> backbones.BackboneConfig:
  shape = build_model.model_config(_config(**{"model.backbone": name}), 1)
  return dataclasses.replace(shape.backbone, **fields)


def mask2former_of(
  num_classes: int, backbone: backbones.BackboneConfig, **fields
) -> mask2former.Mask2FormerConfig:
  return dataclasses.replace(
    build_model.model_config(_config(), num_classes), backbone=backbone, **fields
  )


def deeplabv3plus_of(
  num_classes: int, backbone: str = "resnet50", **fields
) -> deeplabv3plus.DeepLabV3PlusConfig:
  names = {"model.name": "deeplabv3plus", "model.backbone": backbone}
  config = _config(**names | {"model.backbone_norm": "batch_norm"})
  return dataclasses.replace(build_model.model_config(config, num_classes), **fields)


def eomt_of(
  num_classes: int, backbone: str, crop_size: int, *, freeze_backbone: bool = False, **fields
) -> eomt.EomtConfig:
  names = {"model.name": "eomt", "model.backbone": backbone, "data.crop_size": crop_size}
  config = _config(**names | {"model.freeze_backbone": freeze_backbone})
  return dataclasses.replace(build_model.model_config(config, num_classes), **fields)


def criterion(**fields) -> mask_criterion.CriterionConfig:
  values = common.get_config().loss.to_dict() | {"class_loss": CROSS_ENTROPY} | fields
  return mask_criterion.CriterionConfig(**fields_of(mask_criterion.CriterionConfig, values))


def mask2former_loss(**fields) -> architectures_mask2former.Mask2FormerLossConfig:
  values = common.get_config().loss.to_dict() | {"class_loss": CROSS_ENTROPY}
  values |= {"max_targets": 4, "ignore_label": 255} | fields
  cls = architectures_mask2former.Mask2FormerLossConfig
  return cls(**fields_of(cls, values))


def eomt_loss(**fields) -> architectures_eomt.EomtLossConfig:
  """The annealing is that of the config, for three blocks, over 6 steps."""
  values = common.get_config().loss.to_dict() | {"class_loss": CROSS_ENTROPY}
  values |= {"max_targets": 4, "ignore_label": 255, "steps": 6} | fields
  cls = architectures_eomt.EomtLossConfig
  return cls(**fields_of(cls, values))


def pixel_loss(**fields) -> per_pixel.PixelLossConfig:
  values = {"class_loss": CROSS_ENTROPY, "hard_pixel_fraction": 0.2, "ignore_label": 255}
  return per_pixel.PixelLossConfig(**values | fields)


def class_loss(name: str, counts=None, **fields) -> ClassLoss:
  """With the parameters of the config; counts have to be given."""
  values = common.get_config().loss.to_dict()
  if counts is not None:
    values |= {"train_images": counts, "prior_counts": counts}
  cls = class_losses.CLASS_LOSSES[name]
  return cls(**fields_of(cls, values | fields))


def optimizer(**fields) -> OptimizerConfig:
  return dataclasses.replace(build.optimizer_config(common.get_config()), **fields)


def train_pipeline(**fields) -> pipeline_lib.TrainPipelineConfig:
  """In threads, with the release's arithmetic and no list of classes.

  Fields of `transforms.Augmentation` are given beside those of the stream.
  """
  config = common.get_config()
  values = config.data.to_dict() | {"batch_size": config.batch_size, "seed": config.seed}
  values |= {"num_workers": 0, "exact_pixels": True, "max_targets": 0, "copy_paste": None} | fields
  values["augmentation"] = transforms.Augmentation(**fields_of(transforms.Augmentation, values))
  known = fields_of(pipeline_lib.TrainPipelineConfig, values)
  assert set(fields) <= {*known, *vars(values["augmentation"])}
  return pipeline_lib.TrainPipelineConfig(**known)


def copy_paste(ignore_label: int, mode: str = "random", **fields) -> copy_paste_lib.CopyPaste:
  values = fields_of(copy_paste_lib.CopyPaste, common.get_config().data, "copy_paste_")
  return copy_paste_lib.CopyPaste(**values | {"ignore_label": ignore_label, "mode": mode} | fields)
