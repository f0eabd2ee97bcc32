"""What an official checkpoint is, read off its names and shapes, and whether a config matches."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from ltss_jax.architectures import SPECS
from ltss_jax.models import dino, mask2former, resnet, swin, vit
from ltss_jax.weights import names

_EMPTY_WEIGHT = "criterion.empty_weight"
_TABLE, _PATCHES = "pos_embed", "patch_embed.proj.weight"  # of DINOv2 and MAE
_PATCHES_OF_DINOV3 = "patch_embed.patch_embeddings.weight"
_SCALE_OF_DINOV2 = "blocks.0.ls1.gamma"  # which one without registers has as well, but MAE has not
# Of every architecture: its layer with an output for each class.
_CLASS_BIASES = {
  model: names.official_name(model, f"{spec.class_layers[0]}/bias") for model, spec in SPECS.items()
}


@dataclasses.dataclass(frozen=True)
class Description:
  """Facts about a checkpoint.

  Attributes:
    model: name of the architecture; None for a backbone alone.
    backbone: its name here; None where it is no backbone of a known size.
    class_head: "softmax" or "seesaw"; None where there is none to choose.
    num_classes: C; None for a backbone alone.
    settings: fields of the config -> the one value that an EoMT's arrays fit.
  """

  model: str | None
  backbone: str | None
  class_head: str | None
  num_classes: int | None
  settings: Mapping[str, int] = dataclasses.field(default_factory=dict)


def describe(arrays: Mapping[str, np.ndarray], class_head: str) -> Description:
  """Describes weights under official names.

  Args:
    arrays: official name -> array.
    class_head: "softmax" or "seesaw", where a file without the loss's buffers does not tell.
  """
  backbone = _backbone(arrays)
  model = next((model for model, name in _CLASS_BIASES.items() if name in arrays), None)
  if model is None:
    return Description(None, backbone, None, None)
  outputs = len(arrays[_CLASS_BIASES[model]])
  if "class_head" not in {field.name for field in dataclasses.fields(SPECS[model].model_config)}:
    return Description(model, backbone, None, outputs)
  head = _class_head(arrays, outputs, class_head)
  num_classes = outputs - mask2former.CLASS_HEADS[head].num_others
  return Description(model, backbone, head, num_classes, _settings(arrays))


def _class_head(arrays: Mapping[str, np.ndarray], num_outputs: int, default: str) -> str:
  if names.COUNTS in arrays:
    return "seesaw"
  if _EMPTY_WEIGHT in arrays:
    return "softmax" if len(arrays[_EMPTY_WEIGHT]) == num_outputs else "seesaw"
  return default


def _settings(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
  """What an EoMT's names and shapes tell of its config; nothing of other models."""
  lengths = {
    "model.num_queries": np.shape(arrays.get("q.weight"))[:1],
    "model.num_blocks": np.shape(arrays.get("attn_mask_probs"))[:1],
  }
  settings = {field: length[0] for field, length in lengths.items() if length}
  table, kernel = (np.shape(arrays.get(f"backbone.{name}")) for name in (_TABLE, _PATCHES))
  if len(table) == 3 and kernel and f"backbone.{_SCALE_OF_DINOV2}" in arrays:
    side = math.isqrt(table[1])  # in patches
    if side**2 == table[1]:
      settings["data.crop_size"] = side * kernel[-1]
  return settings


def _backbone(arrays: Mapping[str, np.ndarray]) -> str | None:
  def count(pattern: str) -> int:
    matches = (re.match(rf"backbone\.{pattern}", name) for name in arrays)
    return len({match[1] for match in matches if match})

  def width(name: str) -> int | None:
    array = arrays.get(f"backbone.{name}")
    return None if array is None else len(array)

  depths = tuple(count(rf"res{stage}\.(\d+)\.conv1\.") for stage in (2, 3, 4, 5))
  for name, config in resnet.CONFIGS.items():
    if depths == config.depths and width("stem.conv1.weight") == config.stem_channels:
      return name
  depths = tuple(count(rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
  for name, config in swin.CONFIGS.items():
    if depths == config.depths and width("patch_embed.proj.weight") == config.channels:
      return name
  depth = count(r"blocks\.(\d+)\.")
  rotary = f"backbone.{_PATCHES_OF_DINOV3}" in arrays
  if rotary or f"backbone.{_SCALE_OF_DINOV2}" in arrays:
    patches = _PATCHES_OF_DINOV3 if rotary else _PATCHES
    for name, config in dino.CONFIGS.items():
      shape = (config.rotary, config.depth, config.channels)
      if shape == (rotary, depth, width(patches)):
        return name
    return None
  for name, config in vit.CONFIGS.items():
    if depth == config.depth and width(_PATCHES) == config.channels:
      return name
  return None


def check(
  found: Description,
  *,
  model: str,
  backbone: str,
  class_head: str,
  data: str,
  num_classes: int | None,
  settings: Mapping[str, int],
) -> None:
  """Compares a checkpoint with what a config asks for.

  Args:
    found: description of the checkpoint.
    model: config.model.name.
    backbone: config.model.backbone.
    class_head: config.model.class_head.
    data: config.data.name.
    num_classes: number of classes of that data set; None leaves it to the checkpoint.
    settings: the config's values of the fields in `found.settings`.

  Raises:
    ValueError: they differ; says what to choose.
  """
  if found.model not in (None, model):
    raise ValueError(
      f"the checkpoint's model is {found.model}, the config's {model}; choose the variant"
      f" model={found.model}"
    )
  if found.backbone not in (None, backbone):
    raise ValueError(
      f"the checkpoint's backbone is {found.backbone}, the config's {backbone}; choose the variant"
      f" backbone={found.backbone}"
    )
  if found.class_head not in (None, class_head):
    raise ValueError(
      f"the checkpoint has a {found.class_head} class head, the config a {class_head} one; give"
      f" --config.model.class_head={found.class_head}"
    )
  for field, value in found.settings.items():
    if settings[field] != value:
      raise ValueError(
        f"the checkpoint was trained with {field}={value}, the config has {settings[field]}; give"
        f" --config.{field}={value}"
      )
  if None not in (found.num_classes, num_classes) and found.num_classes != num_classes:
    raise ValueError(
      f"the checkpoint's class head is for {found.num_classes} classes, the data set {data} has"
      f" {num_classes}; choose the config of the data set that it was trained on, or"
      " configs/folder.py, which takes the number from the checkpoint"
    )
