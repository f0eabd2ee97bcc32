"""Parameters, inputs and cotangents of the small Swin and ViT in `backbones_mini.npz` (numpy only).

Parameters are functions of official name and shape, so that none is stored. For each of "swin" and
"vit" the file holds what `backbone_judges.py` computes in float32 for `image(key)`:
  {key}_{res2,res3,res4,res5}: features [B, C, h, w];
  {key}_grad_image: gradient by the image of sum(feature * cotangent(key, name, feature.shape)),
    summed over the four features;
  {key}_grad/{official name}: the same by some parameters, in official layout.
Arrays are channel-first.
"""

import zlib

import numpy as np

from tests.golden.official_parameters import official_parameter

# [B, 3, H, W]. Swin: multiples neither of patch, window nor merging; ViT: grid 5 x 7, windows of 3.
SHAPES = {"swin": (2, 3, 61, 75), "vit": (2, 3, 80, 112)}

GRADIENTS = {
  "swin": (
    "patch_embed.proj.weight",
    "layers.0.blocks.1.attn.relative_position_bias_table",
    "layers.2.blocks.1.attn.qkv.weight",
    "layers.2.downsample.reduction.weight",
  ),
  "vit": (
    "blocks.0.attn.rel_pos_h",
    "blocks.2.attn.rel_pos_w",
    "blocks.1.attn.qkv.weight",
    "res2.2.weight",
    "res5.2.weight",
  ),
}


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of one official name; tables are large enough to show in the features."""
  if name.endswith(("relative_position_bias_table", "rel_pos_h", "rel_pos_w", "pos_embed")):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (0.5 * rng.standard_normal(shape)).astype(np.float32)
  return official_parameter(name, shape)


def image(key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
  """[B, 3, H, W] float32 of unit variance, different at every shape."""
  shape = shape or SHAPES[key]
  seed = zlib.crc32(f"{key} {shape}".encode())
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cotangent(key: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """What the gradients of feature `name` start from: [B, C, h, w] float32."""
  seed = zlib.crc32(f"cotangent {key} {name}".encode())
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
