"""ImageNet backbones: torchvision's and detectron2's ResNet, official Swin, MAE's ViT.

Their names become those of the backbone in an official checkpoint. What a segmentation model does
not use is dropped; what it has beyond the file starts afresh.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ltss_jax.models import vit

_PREFIX = "backbone."
_NOTHING = re.compile(r"(?!)")


@dataclasses.dataclass(frozen=True)
class Format:
  """One kind of file.

  Attributes:
    title: for messages.
    marks: names by which it is known.
    rename: name -> official name without "backbone.".
    dropped: names that a segmentation model does not use.
    afresh: official names that its backbone has beside those of the file.
  """

  title: str
  marks: tuple[str, ...]
  rename: Callable[[str], str]
  dropped: re.Pattern[str]
  afresh: re.Pattern[str] = _NOTHING


@dataclasses.dataclass
class Backbone:
  """A backbone's weights under official names.

  Attributes:
    title: what the file was recognised as.
    arrays: official name -> array.
    dropped: names in the file that have no use here.
    afresh: official names that may be missing.
    changed: what was done to single arrays, as text.
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


def _unchanged(name: str) -> str:
  return name


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
    "Swin",
    ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"),
    _unchanged,
    re.compile(r"head\..*|norm\..*|.*\.attn_mask"),
    re.compile(r"backbone\.norm\d\."),
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
  if "conv1_w" in arrays:
    raise ValueError(
      "the checkpoint is a Caffe2 ResNet, which wants BGR images and has its strides in the 1x1"
      " convolutions; take torchvision's ResNet"
    )
  if all(name.startswith(_PREFIX) for name in arrays):
    arrays = {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
  for kind in _FORMATS:
    if all(mark in arrays for mark in kind.marks):
      return _converted(kind, arrays)
  raise ValueError(
    "the checkpoint has names of no known kind, such as"
    f" {', '.join(sorted(arrays)[:3])}; known are Mask2Former and DeepLabV3+ of detectron2,"
    f" Mask2Former of Hugging Face, and the backbones {', '.join(k.title for k in _FORMATS)}"
  )


def prefixes(names: Iterable[str]) -> set[str]:
  """What stands before the names of a backbone of any kind: "", "backbone.", "encoder_q.", ..."""
  names, found = set(names), set()
  for kind in _FORMATS:
    *others, last = kind.marks
    ends = (name.removesuffix(last) for name in names if f".{name}".endswith(f".{last}"))
    found |= {prefix for prefix in ends if all(prefix + mark in names for mark in others)}
  return found


def _converted(kind: Format, arrays: Mapping[str, np.ndarray]) -> Backbone:
  official, dropped, changed = {}, [], []
  for name, array in arrays.items():
    if kind.dropped.fullmatch(name):
      dropped.append(name)
    else:
      official[_PREFIX + kind.rename(name)] = array
  if "pos_embed" in arrays and "cls_token" in arrays:
    official[f"{_PREFIX}pos_embed"] = arrays["pos_embed"][:, 1:]
    changed.append("backbone.pos_embed: without the entry of the class token")
  return Backbone(kind.title, official, dropped, kind.afresh, changed)


def fit_tables(backbone: Backbone, shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Resizes position tables to the model's window or grid, as the official loaders do.

  Args:
    backbone: changed in place.
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
