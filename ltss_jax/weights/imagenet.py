"""Backbones alone: ResNets and Swins of several libraries, MAE's ViT, and those of DINO.

Their names become those of the backbone in an official checkpoint. What a segmentation model does
not use is dropped; what it has beyond the file starts afresh.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ltss_jax.weights import backbone_format, dino_encoders, other_kinds, resizing
from ltss_jax.weights.backbone_format import PREFIX, Arrays, Backbone, Format, unchanged

_DETECTION_PREFIX = "bottom_up."  # of detectron2, whose detectors have other ResNets


def torchvision_to_official(name: str) -> str:
  """Renames a ResNet's parameter: "layer1.0.bn1.bias" -> "res2.0.conv1.norm.bias"."""
  name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
  name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
  name = name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
  return re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)


def timm_swin_to_official(name: str) -> str:
  """Renames a Swin's parameter: merging begins a stage there and ends the one before here."""
  return re.sub(
    r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name
  )


def torchvision_swin_to_official(name: str) -> str:
  """Renames a Swin's parameter: its stem, stages and mergings are numbered in one list."""
  name = re.sub(r"^features\.0\.0\.", "patch_embed.proj.", name)
  name = re.sub(r"^features\.0\.2\.", "patch_embed.norm.", name)
  name = re.sub(
    r"^features\.([1357])\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.", name
  )
  name = re.sub(r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample.", name)
  return name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")


def mmseg_swin_to_official(name: str) -> str:
  """Renames a Swin's parameter: "stages.0.blocks.1.attn.w_msa.qkv.bias" and its like."""
  name = re.sub(r"^patch_embed\.projection\.", "patch_embed.proj.", name)
  name = re.sub(r"^stages\.", "layers.", name).replace(".attn.w_msa.", ".attn.")
  return name.replace(".ffn.layers.0.0.", ".mlp.fc1.").replace(".ffn.layers.1.", ".mlp.fc2.")


def mmseg_merging_to_official(name: str, array: np.ndarray) -> np.ndarray:
  """Reorders the merged channels of a Swin's `downsample.norm` and `downsample.reduction`.

  MMSegmentation merges by `torch.nn.Unfold`, whose channels go by (channel, row, column); those of
  the official merging by (column, row, channel).

  Args:
    name: official name of any parameter.
    array: [..., 4 C] where it is one of these.

  Returns:
    The array, reordered along its last axis where it is one of these.
  """
  if ".downsample." not in name or array.ndim == 0 or array.shape[-1] % 4:
    return array
  cells = array.reshape(*array.shape[:-1], -1, 2, 2)  # [..., C, row, column]
  return cells.swapaxes(-1, -3).reshape(array.shape)


def _finish_mmseg_swin(arrays: Arrays) -> list[str]:
  for name, array in arrays.items():
    arrays[name] = mmseg_merging_to_official(name, array)
  return ["backbone.layers.*.downsample.*: merged channels in the official order"]


def _finish_mae(arrays: Arrays) -> list[str]:
  table = arrays[f"{PREFIX}pos_embed"]
  if math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
    return []
  arrays[f"{PREFIX}pos_embed"] = table[:, 1:]
  return ["backbone.pos_embed: without the entry of the class token"]


def _resize_table(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
  """Fits a Swin's tables [S * S, heads] and MAE's positions [1, N, C]; see `Resize`."""
  if array.shape == shape:
    return None
  if name.endswith(".relative_position_bias_table") and array.shape[1] == shape[1]:
    return resizing.resize_table(array, shape[0], antialias=False)
  if name == f"{PREFIX}pos_embed" and array.shape[2] == shape[2]:
    return resizing.resize_table(array[0], shape[1], antialias=False)[None]
  return None


_OF_A_SWIN_CLASSIFIER = re.compile(r"head\..*|norm\..*|.*\.attn_mask")
_SWIN_OUTPUTS = re.compile(r"backbone\.norm\d\.")
_FORMATS = (
  Format(
    "torchvision ResNet",
    ("conv1.weight", "layer1.0.conv1.weight"),
    torchvision_to_official,
    re.compile(r"fc\..*"),
  ),
  Format(
    "detectron2 ResNet",
    ("stem.conv1.weight", "res2.0.conv1.weight"),
    unchanged,
    re.compile(r"(stem\.)?fc\..*"),
  ),
  Format(
    "timm Swin",
    ("patch_embed.proj.weight", "layers.3.downsample.reduction.weight"),
    timm_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
    resize=_resize_table,
  ),
  Format(
    "torchvision Swin",
    ("features.0.0.weight", "features.1.0.attn.qkv.weight"),
    torchvision_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
    resize=_resize_table,
  ),
  Format(
    "MMSegmentation Swin",
    ("patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"),
    mmseg_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
    _finish_mmseg_swin,
    _resize_table,
  ),
  Format(
    "Swin",
    ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"),
    unchanged,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
    resize=_resize_table,
  ),
  Format(
    "MAE ViT",
    ("pos_embed", "blocks.0.attn.qkv.weight"),
    unchanged,
    re.compile(r"cls_token|mask_token|decoder_.*|head\..*"),
    re.compile(r"backbone\.(res\d\.|blocks\.\d+\.attn\.rel_pos_)"),
    _finish_mae,
    _resize_table,
  ),
)


_KINDS = (*dino_encoders.FORMATS, *_FORMATS)


def recognise(arrays: Mapping[str, np.ndarray]) -> Backbone:
  """Finds out which kind of backbone file this is and gives it official names.

  Args:
    arrays: name -> array of the file.

  Returns:
    The backbone.

  Raises:
    ValueError: the names are of no kind that is known, or the model is of another size or make
      than those here.
  """
  if all(name.startswith(PREFIX) for name in arrays):
    arrays = {name.removeprefix(PREFIX): array for name, array in arrays.items()}
  kind = _kind(dino_encoders.FORMATS, arrays)
  if kind is None:
    if title := other_kinds.title(arrays):
      raise ValueError(f"the checkpoint is {title}. {_known_kinds()}")
    kind = _kind(_FORMATS, arrays)
  if kind is None:
    raise ValueError(
      "the checkpoint has names of no known kind, such as"
      f" {', '.join(sorted(arrays)[:3])}. {_known_kinds()}"
    )
  return backbone_format.convert(kind, dict(arrays))


def _kind(kinds: Sequence[Format], names: Iterable[str]) -> Format | None:
  return next((kind for kind in kinds if all(mark in names for mark in kind.marks)), None)


def recognise_dinov3(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a DINOv3 alone under official names, of which released models are differences.

  Args:
    arrays: name -> array of the file.

  Returns:
    official name ("backbone.blocks.0.norm1.weight") -> array in official layout.

  Raises:
    ValueError: it is nothing that is known, or another backbone.
  """
  backbone = recognise(arrays)
  if dino_encoders.DINOV3_MARK not in backbone.arrays:
    raise ValueError(f"the checkpoint is a {backbone.title}, and not a DINOv3 alone")
  return backbone.arrays


def _known_kinds() -> str:
  titles = dict.fromkeys(kind.title for kind in _KINDS)
  return (
    "Known are Mask2Former and DeepLabV3+ of detectron2, Mask2Former and EoMT of Hugging Face, EoMT"
    f" as released, and the backbones {', '.join(titles)}"
  )


def prefixes(names: Iterable[str]) -> set[str]:
  """What stands before the names of a backbone of any kind: "", "backbone.", "encoder_q.", ..."""
  names, found = set(names), set()
  for kind in _KINDS:
    *others, last = kind.marks
    ends = (name.removesuffix(last) for name in names if f".{name}".endswith(f".{last}"))
    found |= {prefix for prefix in ends if all(prefix + mark in names for mark in others)}
  return {prefix for prefix in found if not prefix.endswith(_DETECTION_PREFIX)}


def fit_tables(backbone: Backbone, shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Resizes tables and patches to the model's size, as the official loaders do.

  Args:
    backbone: backbone as read; changed in place.
    shapes: official name -> shape of the model, in our layout.

  Raises:
    ValueError: a position table is not of a square.
  """
  for name, array in backbone.arrays.items():
    resized = backbone.resize(name, array, shapes[name]) if name in shapes else None
    if resized is not None:
      backbone.arrays[name] = resized
      backbone.changed.append(f"{name}: resized, {array.shape} -> {resized.shape}")
