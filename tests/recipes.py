"""The library's settings as build.py makes them of configs/common.py; tests change what they need.

Models compute in float32, and every `fields` overwrites fields of the dataclass that is returned.
"""

import dataclasses

from configs import common
from input_pipeline import copy_paste as copy_paste_lib, pipeline as pipeline_lib, transforms
from ltss_jax import build
from ltss_jax.build import model as build_model
from ltss_jax.build.fields import fields_of
from ltss_jax.losses import class_losses, mask_criterion
from ltss_jax.models import backbones, deeplabv3plus, mask2former
from ltss_jax.optimizer import OptimizerConfig

CROSS_ENTROPY = class_losses.ClassLoss("cross_entropy")


def _config(**fields):
  config = common.get_config()
  config.update_from_flattened_dict({"model.dtype": "float32"} | fields)
  return config


def backbone(name: str, **fields) -> backbones.BackboneConfig:
  config = build_model._mask2former_config(_config(**{"model.backbone": name}), 1)
  return dataclasses.replace(config.backbone, **fields)


def mask2former_of(
  num_classes: int, backbone: backbones.BackboneConfig, **fields
) -> mask2former.Mask2FormerConfig:
  config = build_model._mask2former_config(_config(), num_classes)
  return dataclasses.replace(config, backbone=backbone, **fields)


def deeplabv3plus_of(num_classes: int, **fields) -> deeplabv3plus.DeepLabV3PlusConfig:
  config = _config(**{"model.name": "deeplabv3plus", "model.backbone_norm": "batch_norm"})
  return dataclasses.replace(build_model._deeplabv3plus_config(config, num_classes), **fields)


def criterion(**fields) -> mask_criterion.CriterionConfig:
  values = common.get_config().loss.to_dict() | {"class_loss": CROSS_ENTROPY} | fields
  return mask_criterion.CriterionConfig(**fields_of(mask_criterion.CriterionConfig, values))


def class_loss(name: str, **fields) -> class_losses.ClassLoss:
  """With the parameters of the config; counts have to be given."""
  loss = common.get_config().loss
  parameters = {"tau": loss.logit_adjustment_tau, "beta": loss.class_balanced_beta}
  parameters |= {n: loss[n] for n in ("focal_gamma", "seesaw_p", "seesaw_q")}
  return class_losses.make_class_loss(name, **parameters | fields)


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
