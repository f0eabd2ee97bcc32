"""Names of Hugging Face's Eomt and EomtDinov3 to the official ones.

Query, key and value are matrices of their own there; those of a DINOv2 encoder are packed into one
here, and so are the two halves of its gated feed-forward network.
"""

import re
from collections.abc import Mapping

import numpy as np

from ltss_jax.weights.conversion_report import Report

# Patterns of names by which a file is known.
MARKS = (r"class_predictor\.bias", r"upscale_block\.block\.0\.conv1\.weight")

_TABLE = "backbone.pos_embed"  # [N, D] there, [1, N, D] here
_MASK_HEAD = {"1": "0", "2": "2", "3": "4"}  # an activation stands between two layers
_EITHER = (
  (r"query\.", "q."),
  (r"class_predictor\.", "class_head."),
  (r"mask_head\.fc([123])\.", lambda m: f"mask_head.{_MASK_HEAD[m[1]]}."),
  (r"upscale_block\.block\.(\d+)\.layernorm2d\.", r"upscale.\1.norm."),
  (r"upscale_block\.block\.", "upscale."),
  (r"layernorm\.", "backbone.norm."),
)
_DINOV2 = (
  *_EITHER,
  (r"embeddings\.cls_token", "backbone.cls_token"),
  (r"embeddings\.register_tokens", "backbone.reg_token"),
  (r"embeddings\.position_embeddings\.weight", _TABLE),
  (r"embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
  (r"layers\.(\d+)\.attention\.out_proj\.", r"backbone.blocks.\1.attn.proj."),
  (r"layers\.(\d+)\.attention\.([qkv])_proj\.", r"backbone.blocks.\1.attn.qkv.\2."),
  (r"layers\.(\d+)\.layer_scale([12])\.lambda1", r"backbone.blocks.\1.ls\2.gamma"),
  (r"layers\.(\d+)\.mlp\.(gate|up)_proj\.", r"backbone.blocks.\1.mlp.fc1.\2."),
  (r"layers\.(\d+)\.mlp\.down_proj\.", r"backbone.blocks.\1.mlp.fc2."),
  # transformers 4.x keeps them packed.
  (r"layers\.(\d+)\.mlp\.weights_in\.", r"backbone.blocks.\1.mlp.fc1."),
  (r"layers\.(\d+)\.mlp\.weights_out\.", r"backbone.blocks.\1.mlp.fc2."),
  (r"layers\.", "backbone.blocks."),
)
_DINOV3 = (
  *_EITHER,
  (r"embeddings\.", "backbone.patch_embed."),
  (r"layers\.", "backbone.blocks."),
)
# Follow from the model, and are not saved by every release.
_UNUSED = re.compile(r"embeddings\.(position_ids|mask_token)|rope_embeddings\..+")
_PACKED = re.compile(r"(?P<whole>.+\.(?:qkv|fc1))\.(?P<part>q|k|v|gate|up)\.(?P<leaf>weight|bias)")
_PATCHES_OF_DINOV2 = "embeddings.patch_embeddings.projection."
_ORDERS = {"qkv": ("q", "k", "v"), "fc1": ("gate", "up")}


def to_official(
  arrays: Mapping[str, np.ndarray], done: Report | None = None
) -> dict[str, np.ndarray]:
  """Renames and packs the arrays of an Eomt- or EomtDinov3ForUniversalSegmentation.

  Args:
    arrays: its state dict, or what `save_pretrained` wrote.
    done: lists what was dropped, where it is given.

  Returns:
    official name -> array in official layout. Names that are not known stay as they are.

  Raises:
    ValueError: a part of what is packed is missing.
  """
  patterns = _DINOV2 if any(name.startswith(_PATCHES_OF_DINOV2) for name in arrays) else _DINOV3
  official: dict[str, np.ndarray] = {}
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    if _UNUSED.fullmatch(name):
      if done is not None:
        done.dropped.append(name)
      continue
    name = _renamed(name, patterns)
    if match := _PACKED.fullmatch(name):
      whole = f"{match['whole']}.{match['leaf']}"
      parts.setdefault(whole, {})[match["part"]] = array
    else:
      official[name] = array
  for whole, found in parts.items():
    order = _ORDERS[whole.split(".")[-2]]
    if missing := [part for part in order if part not in found]:
      raise ValueError(f"{whole} is packed from {', '.join(order)}; the checkpoint lacks {missing}")
    official[whole] = np.concatenate([found[part] for part in order])
  if _TABLE in official:
    official[_TABLE] = official[_TABLE][None]
  return official


def _renamed(name: str, patterns: tuple) -> str:
  for pattern, replacement in patterns:
    name, count = re.subn(f"^{pattern}", replacement, name)
    if count:
      break
  return name
