"""Encoders of DINOv2 and DINOv3 alone, as several libraries save them.

Official are the names that they have within a released EoMT: timm's for DINOv2, those of
`transformers` 4.56 for DINOv3. A DINOv2 is resized to the model's grid and patch as timm does when
it loads one.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from ltss_jax.weights import resizing
from ltss_jax.weights.backbone_format import PREFIX, Arrays, Format, unchanged

# What separates a DINOv3 from the rest, under its official name.
DINOV3_MARK = f"{PREFIX}patch_embed.register_tokens"
_BLOCK = rf"^{re.escape(PREFIX)}blocks\.\d+\."
_PACKED = "attn.qkv.weight"
_DROPPED = r"mask_token|(linear_)?head\..*"

_HUGGINGFACE_DINOV2 = (
  (r"^embeddings\.register_tokens$", "reg_token"),
  (r"^embeddings\.position_embeddings$", "pos_embed"),
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
  (r"^embeddings\.", ""),
  (r"^encoder\.layer\.", "blocks."),
  (r"^layernorm\.", "norm."),
  (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
  (r"\.attention\.q_proj\.", ".attn.query."),
  (r"\.attention\.k_proj\.", ".attn.key."),
  (r"\.attention\.v_proj\.", ".attn.value."),
  (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
  (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
  (r"\.mlp\.weights_in\.", ".mlp.fc1."),
  (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
)
_HUGGINGFACE_DINOV3 = (
  (r"^embeddings\.", "patch_embed."),
  (r"^(model\.)?layer\.", "blocks."),
)
_DINOV2 = (
  (r"^register_tokens$", "reg_token"),
  (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # training keeps blocks in chunks, numbered through
  (r"\.mlp\.w12\.", ".mlp.fc1."),  # of the giant: [gate, value]
  (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_DINOV3 = (
  (r"^cls_token$", "patch_embed.cls_token"),
  (r"^(storage_tokens|reg_token)$", "patch_embed.register_tokens"),
  (r"^patch_embed\.proj\.", "patch_embed.patch_embeddings."),
  (r"\.attn\.proj\.", ".attention.o_proj."),
  (r"\.attn\.q_bias$", ".attention.q_proj.bias"),
  (r"\.attn\.v_bias$", ".attention.v_proj.bias"),
  (r"\.(ls|gamma_)([12])(\.gamma)?$", r".layer_scale\2.lambda1"),
  (r"\.mlp\.fc1\.", ".mlp.up_proj."),
  (r"\.mlp\.fc2\.", ".mlp.down_proj."),
)


@dataclasses.dataclass(frozen=True)
class _Renaming:
  """Applies rules (pattern, replacement) to a name, one after the other."""

  rules: Sequence[tuple[str, str]]

  def __call__(self, name: str) -> str:
    for pattern, replacement in self.rules:
      name = re.sub(pattern, replacement, name)
    return name


def _finish_dinov2(arrays: Arrays) -> list[str]:
  _pack(arrays, ("attn.query", "attn.key", "attn.value"), "attn.qkv")
  _pack(arrays, ("mlp.gate_proj", "mlp.up_proj"), "mlp.fc1")
  changed = []
  table, token = arrays.get(f"{PREFIX}pos_embed"), arrays.get(f"{PREFIX}cls_token")
  if table is not None and token is not None and table.ndim == 3 and _is_square(table.shape[1] - 1):
    table = table.astype(np.float32)
    arrays[f"{PREFIX}cls_token"] = token.astype(np.float32) + table[:, :1]
    arrays[f"{PREFIX}pos_embed"] = table[:, 1:]
    changed.append("backbone.pos_embed: the first one is the class token's, added to it")
  if f"{PREFIX}reg_token" not in arrays:
    changed.append(
      "backbone.reg_token: this encoder was trained without registers, which start afresh; the"
      " release with them (reg4) suits this model better, the more where the backbone is frozen"
    )
  return changed


def _is_square(count: int) -> bool:
  return count > 0 and math.isqrt(count) ** 2 == count


def _pack(arrays: Arrays, parts: Sequence[str], whole: str) -> None:
  """Joins layers of the same inputs to one, where a block has them all."""
  first = re.compile(rf"{_BLOCK}{re.escape(parts[0])}\.")
  for name in [name for name in arrays if first.match(name)]:
    names = [name.replace(parts[0], part) for part in parts]
    if all(part in arrays for part in names):
      arrays[name.replace(parts[0], whole)] = np.concatenate([arrays.pop(part) for part in names])


def _finish_dinov3(arrays: Arrays) -> list[str]:
  gated = re.compile(rf"{_BLOCK}mlp\.(gate_proj|w1|w2|w12|fc1_g)\.")
  if any(gated.match(name) for name in arrays):
    raise ValueError(
      "the checkpoint is a DINOv3 with gated feed-forward networks (S+, H+, 7B); take S, B or L"
    )
  blocks = [name.removesuffix(_PACKED) for name in arrays if name.endswith(_PACKED)]
  has_biases = [_split_qkv(arrays, block) for block in blocks]
  if all(has_biases):
    return []
  return ["backbone.blocks.*.attention.*_proj.bias: zero, the file has none"]


def _split_qkv(arrays: Arrays, block: str) -> bool:
  """Splits a block's packed projection; biases become zero, and the result false, without any."""
  query, key, value = np.split(arrays.pop(f"{block}{_PACKED}"), 3)
  names = [f"{block}attention.{part}_proj" for part in "qkv"]
  arrays |= {
    f"{name}.weight": array for name, array in zip(names, (query, key, value), strict=True)
  }
  biases = f"{names[0]}.bias", f"{names[2]}.bias"
  bias = arrays.pop(f"{block}attn.qkv.bias", None)
  if bias is not None:
    mask = arrays.pop(f"{block}attn.qkv.bias_mask", None)
    arrays |= zip(biases, _without_keys(bias, mask, block), strict=True)
  elif not any(name in arrays for name in biases):  # which timm keeps apart
    arrays |= {name: np.zeros(len(query), np.float32) for name in biases}
    return False
  return True


def _without_keys(
  bias: np.ndarray, mask: np.ndarray | None, block: str
) -> tuple[np.ndarray, np.ndarray]:
  """Biases of queries and values; a mask of zeros switches off that of the keys."""
  query, key, value = np.split(bias, 3)
  if mask is not None:
    key = np.where(np.split(mask, 3)[1] == 0, 0, key)
  if np.any(key != 0):
    raise ValueError(
      f"{block.removeprefix(PREFIX)}attn.qkv.bias has a bias of the keys, which a DINOv3 has not:"
      " the checkpoint is another model, or lacks the bias_mask that it was trained with"
    )
  return query, value


def _resize_dinov2(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
  """Fits positions [1, N, C] and the patch projection [C, 3, p, p]; see `Resize`."""
  if name == f"{PREFIX}pos_embed" and array.ndim == 3 and array.shape[2] == shape[2]:
    if array.shape[1] == shape[1]:
      return None
    return resizing.resize_table(array[0], shape[1], antialias=True)[None]
  is_patch = name == f"{PREFIX}patch_embed.proj.weight" and array.ndim == 4
  if is_patch and array.shape[2:] != shape[:2]:
    return resizing.resize_patch_kernel(array, *shape[:2])
  return None


def _dinov2(title: str, *marks: str, rules: Sequence[tuple[str, str]]) -> Format:
  return Format(
    title,
    marks,
    _Renaming(rules),
    re.compile(rf"(embeddings\.)?({_DROPPED})"),
    re.compile(re.escape(f"{PREFIX}reg_token")),
    _finish_dinov2,
    _resize_dinov2,
  )


def _dinov3(title: str, *marks: str, rules: Sequence[tuple[str, str]] = ()) -> Format:
  return Format(
    title,
    marks,
    _Renaming(rules) if rules else unchanged,
    re.compile(rf"(embeddings\.|patch_embed\.)?({_DROPPED})|(rope(_embed|_embeddings)?)\..*"),
    finish=_finish_dinov3,
  )


FORMATS = (
  _dinov2("DINOv2", "cls_token", "pos_embed", "blocks.0.ls1.gamma", rules=_DINOV2),
  _dinov2("DINOv2", "cls_token", "pos_embed", "blocks.0.0.ls1.gamma", rules=_DINOV2),
  _dinov2(
    "DINOv2 of Hugging Face",
    "embeddings.position_embeddings",
    "encoder.layer.0.layer_scale1.lambda1",
    rules=_HUGGINGFACE_DINOV2,
  ),
  _dinov3(
    "DINOv3 of Hugging Face",
    "embeddings.register_tokens",
    "layer.0.layer_scale1.lambda1",
    rules=_HUGGINGFACE_DINOV3,
  ),
  _dinov3(
    "DINOv3 of Hugging Face",
    "embeddings.register_tokens",
    "model.layer.0.layer_scale1.lambda1",
    rules=_HUGGINGFACE_DINOV3,
  ),
  _dinov3("DINOv3", "storage_tokens", "blocks.0.ls1.gamma", rules=_DINOV3),
  _dinov3(
    "DINOv3 of timm", "reg_token", "blocks.0.attn.qkv.weight", "blocks.0.gamma_1", rules=_DINOV3
  ),
  _dinov3("DINOv3 of EoMT", "patch_embed.register_tokens", "blocks.0.layer_scale1.lambda1"),
)
