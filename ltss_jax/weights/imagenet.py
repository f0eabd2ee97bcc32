"""ImageNet backbones: ResNets and Swins of several libraries, MAE's ViT.

Their names become those of the backbone in an official checkpoint. What a segmentation model does
not use is dropped; what it has beyond the file starts afresh.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ltss_jax.models import vit
from ltss_jax.weights import other_kinds

_PREFIX = "backbone."
_DETECTION_PREFIX = "bottom_up."  # of detectron2, whose detectors have other ResNets
_NOTHING = re.compile(r"(?!)")


@dataclasses.dataclass(frozen=True)
class Format:
  """One kind of file.

  Attributes:
    title: name for messages.
    marks: names by which it is known.
    rename: name -> official name without "backbone.".
    dropped: names that a segmentation model does not use.
    afresh: official names that its backbone has beside those of the file.
    arrange: (official name, array) -> array in official order.
    arranged: description of what `arrange` does, for the report.
  """

  title: str
  marks: tuple[str, ...]
  rename: Callable[[str], str]
  dropped: re.Pattern[str]
  afresh: re.Pattern[str] = _NOTHING
  arrange: Callable[[str, np.ndarray], np.ndarray] | None = None
  arranged: str = ""


@dataclasses.dataclass
class Backbone:
  """A backbone's weights under official names.

  Attributes:
    title: kind of file that it was recognised as.
    arrays: official name -> array.
    dropped: names in the file that have no use here.
    afresh: official names that may be missing.
    changed: changes to single arrays, as text.
  """

  title: str
  arrays: dict[str, np.ndarray]
  dropped: list[str]
  afresh: re.Pattern[str]
  changed: list[str]


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


def _unchanged(name: str) -> str:
  return name


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
    _unchanged,
    re.compile(r"(stem\.)?fc\..*"),
  ),
  Format(
    "timm Swin",
    ("patch_embed.proj.weight", "layers.3.downsample.reduction.weight"),
    timm_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
  ),
  Format(
    "torchvision Swin",
    ("features.0.0.weight", "features.1.0.attn.qkv.weight"),
    torchvision_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
  ),
  Format(
    "MMSegmentation Swin",
    ("patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"),
    mmseg_swin_to_official,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
    mmseg_merging_to_official,
    "backbone.layers.*.downsample.*: merged channels in the official order",
  ),
  Format(
    "Swin",
    ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"),
    _unchanged,
    _OF_A_SWIN_CLASSIFIER,
    _SWIN_OUTPUTS,
  ),
  Format(
    "MAE ViT",
    ("pos_embed", "blocks.0.attn.qkv.weight"),
    _unchanged,
    re.compile(r"cls_token|mask_token|decoder_.*|head\..*"),
    re.compile(r"backbone\.(res\d\.|blocks\.\d+\.attn\.rel_pos_)"),
  ),
)


def recognise(arrays: Mapping[str, np.ndarray]) -> Backbone:
  """Finds out which kind of backbone file this is and gives it official names.

  Args:
    arrays: name -> array of the file.

  Returns:
    The backbone.

  Raises:
    ValueError: the names are of no kind that is known.
  """
  if all(name.startswith(_PREFIX) for name in arrays):
    arrays = {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
  if title := other_kinds.title(arrays):
    raise ValueError(f"the checkpoint is {title}. {_known_kinds()}")
  for kind in _FORMATS:
    if all(mark in arrays for mark in kind.marks):
      return _converted(kind, arrays)
  raise ValueError(
    "the checkpoint has names of no known kind, such as"
    f" {', '.join(sorted(arrays)[:3])}. {_known_kinds()}"
  )


def _known_kinds() -> str:
  return (
    "Known are Mask2Former and DeepLabV3+ of detectron2, Mask2Former of Hugging Face, and the"
    f" backbones {', '.join(kind.title for kind in _FORMATS)}"
  )


def prefixes(names: Iterable[str]) -> set[str]:
  """What stands before the names of a backbone of any kind: "", "backbone.", "encoder_q.", ..."""
  names, found = set(names), set()
  for kind in _FORMATS:
    *others, last = kind.marks
    ends = (name.removesuffix(last) for name in names if f".{name}".endswith(f".{last}"))
    found |= {prefix for prefix in ends if all(prefix + mark in names for mark in others)}
  return {prefix for prefix in found if not prefix.endswith(_DETECTION_PREFIX)}


def _converted(kind: Format, arrays: Mapping[str, np.ndarray]) -> Backbone:
  official, dropped, changed = {}, [], []
  for name, array in arrays.items():
    if kind.dropped.fullmatch(name):
      dropped.append(name)
      continue
    name = kind.rename(name)
    official[_PREFIX + name] = array if kind.arrange is None else kind.arrange(name, array)
  if kind.arranged:
    changed.append(kind.arranged)
  if "pos_embed" in arrays and "cls_token" in arrays:
    official[f"{_PREFIX}pos_embed"] = arrays["pos_embed"][:, 1:]
    changed.append("backbone.pos_embed: without the entry of the class token")
  return Backbone(kind.title, official, dropped, kind.afresh, changed)


def fit_tables(backbone: Backbone, shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Resizes position tables to the model's window or grid, as the official loaders do.

  Args:
    backbone: backbone as read; changed in place.
    shapes: official name -> shape of the model.
  """
  for name, array in backbone.arrays.items():
    shape = shapes.get(name, array.shape)
    if array.shape == shape:
      continue
    if name.endswith(".relative_position_bias_table") and array.shape[1] == shape[1]:
      table = resize_square(array, shape[0])
    elif name == f"{_PREFIX}pos_embed" and array.shape[2] == shape[2]:
      table = resize_square(array[0], shape[1])[None]
    else:
      continue
    backbone.arrays[name] = table
    backbone.changed.append(f"{name}: resized, {array.shape} -> {table.shape}")


def resize_square(table: np.ndarray, cells: int) -> np.ndarray:
  """Resizes a square map bicubically (a = -0.75, clamped, half-pixel centres, no anti-aliasing).

  Args:
    table: [S * S, C], row-major.
    cells: number of cells of the result, a square number.

  Returns:
    [cells, C] float32.

  Raises:
    ValueError: the table is not square.
  """
  side, new_side = round(len(table) ** 0.5), round(cells**0.5)
  if side**2 != len(table) or new_side**2 != cells:
    raise ValueError(f"a position table of {len(table)} entries cannot become one of {cells}")
  square = np.asarray(table, np.float32).reshape(side, side, -1)
  matrix = vit.bicubic_matrix(side, new_side)
  with np.errstate(invalid="ignore"):  # a table that is not finite is refused where it is taken
    resized = np.einsum("yi,xj,ijc->yxc", matrix, matrix, square, optimize=True)
  return resized.reshape(cells, -1).astype(np.float32)
