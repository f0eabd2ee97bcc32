"""Swin and ViT of `transformers` (torch) with the layout of swin_mini and vit_mini.

Run from the repository: python -m tests.golden.backbone_judges   writes backbones_mini.npz
(made with transformers 5.23, torch 2.15).

VitDet serves as the trunk of the ViT. It differs in three points that parameters can undo: it dots
its relative position tables with the unscaled query (so they are scaled here), it has tables in
global blocks too (zero here), and its position embedding begins with a class token (zero here). The
final norm and the pyramid follow as torch layers.
"""

import pathlib

import numpy as np
import torch
from transformers import SwinBackbone, SwinConfig, VitDetBackbone, VitDetConfig

from tests.golden.backbone_parameters import GRADIENTS, SHAPES, cotangent, image, parameter

OUTPUTS = ("res2", "res3", "res4", "res5")
State = dict[str, torch.Tensor]


def leaf(name: str, shape: tuple[int, ...]) -> torch.Tensor:
  """A parameter that gradients are taken by."""
  return torch.tensor(parameter(name, tuple(shape)), requires_grad=True)


def swin_features(pixels: torch.Tensor) -> tuple[list[torch.Tensor], State]:
  """Features of swin_mini and its parameters by official name."""
  config = SwinConfig(
    embed_dim=16,
    depths=[2, 1, 2, 1],
    num_heads=[1, 2, 4, 8],
    window_size=4,
    drop_path_rate=0.0,
    layer_norm_eps=1e-5,
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  model = SwinBackbone(config).eval()
  names = (
    ("swin.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("swin.embeddings.norm", "patch_embed.norm"),
    ("swin.encoder.", ""),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.o_proj", "attn.proj"),
    ("attention.relative_position_bias.", "attn."),
    *((f"hidden_states_norms.stage{i + 1}", f"norm{i}") for i in range(4)),
  )
  official: State = {}
  ours: State = {}
  for name, value in model.state_dict().items():
    target, shape = name, tuple(value.shape)
    for theirs, replacement in names:
      target = target.replace(theirs, replacement)
    part = next((i for i, p in enumerate("qkv") if f"attention.{p}_proj" in target), None)
    if part is not None:
      target = target.replace(f"attention.{'qkv'[part]}_proj", "attn.qkv")
      shape = (3 * shape[0], *shape[1:])
    if name.startswith("swin.layernorm"):  # the classifier's norm, not part of the backbone
      continue
    if target not in official:
      official[target] = leaf(target, shape)
    ours[name] = official[target] if part is None else official[target].chunk(3)[part]
  ours |= {n: v for n, v in model.state_dict().items() if n.startswith("swin.layernorm")}
  return list(torch.func.functional_call(model, ours, (pixels,)).feature_maps), official


def vit_features(pixels: torch.Tensor) -> tuple[list[torch.Tensor], State]:
  """Features of vit_mini and its parameters by official name."""
  channels, heads, depth, window, width = 32, 2, 4, 3, 16
  config = VitDetConfig(
    hidden_size=channels,
    num_hidden_layers=depth,
    num_attention_heads=heads,
    window_size=window,
    window_block_indices=[0, 2],
    use_relative_position_embeddings=True,
    pretrain_image_size=64,
    image_size=list(pixels.shape[2:]),
    layer_norm_eps=1e-5,
  )
  model = VitDetBackbone(config).eval()
  official: State = {"pos_embed": leaf("pos_embed", (1, 16, channels))}
  ours: State = {}
  for name, value in model.state_dict().items():
    target = name.replace("encoder.layer", "blocks").replace("attention.", "attn.")
    target = target.replace("embeddings.projection", "patch_embed.proj")
    if "position_embeddings" in name:
      ours[name] = torch.cat([torch.zeros(1, 1, channels), official["pos_embed"]], 1)
    elif "rel_pos" in name and name.split(".")[2] in "13":
      ours[name] = torch.zeros_like(value)
    else:
      official[target] = leaf(target, value.shape)
      scale = (channels // heads) ** -0.5 if "rel_pos" in name else 1
      ours[name] = official[target] * scale
  x = torch.func.functional_call(model, ours, (pixels,)).feature_maps[0]  # [B, C, h, w]

  def get(name: str, *shape: int) -> torch.Tensor:
    return official.setdefault(name, leaf(name, shape))

  def norm(x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
    size = x.shape[1]
    scale, shift = get(f"{name}.weight", size), get(f"{name}.bias", size)
    x = torch.nn.functional.layer_norm(x.permute(0, 2, 3, 1), (size,), scale, shift, eps)
    return x.permute(0, 3, 1, 2)

  x = norm(x, "norm", 1e-5)
  features = []
  for name, kernel, stride in (("res2", 4, 4), ("res3", 2, 2), ("res4", 3, 1), ("res5", 3, 2)):
    y = torch.nn.functional.conv2d(x, get(f"{name}.0.weight", width, channels, 1, 1))
    y = norm(y, f"{name}.1.ln", 1e-6)
    weight = get(f"{name}.2.weight", width, width, kernel, kernel)
    if name in ("res2", "res3"):
      bias = get(f"{name}.2.bias", width)
      y = torch.nn.functional.conv_transpose2d(y, weight, bias, stride)
    else:
      y = torch.nn.functional.conv2d(y, weight, stride=stride, padding=1)
    features.append(norm(y, f"{name}.3.ln", 1e-6))
  return features, official


def judge(key: str, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
  """Runs a judge forward and backward.

  Args:
    key: "swin" or "vit".
    pixels: [B, 3, H, W] float32.

  Returns:
    (the arrays that `backbone_parameters` describes, without the key; official name -> shape).
  """
  pixels = torch.tensor(pixels, requires_grad=True)
  features, official = {"swin": swin_features, "vit": vit_features}[key](pixels)
  arrays = {name: x.detach().numpy() for name, x in zip(OUTPUTS, features, strict=True)}
  total = sum(
    (x * torch.tensor(cotangent(key, name, tuple(x.shape)))).sum()
    for name, x in zip(OUTPUTS, features, strict=True)
  )
  total.backward()
  arrays["grad_image"] = pixels.grad.numpy()
  arrays |= {f"grad/{name}": official[name].grad.numpy() for name in GRADIENTS[key]}
  return arrays, {name: tuple(x.shape) for name, x in official.items()}


def main() -> None:
  """Writes the golden file."""
  arrays = {}
  for key in SHAPES:
    arrays |= {f"{key}_{name}": x for name, x in judge(key, image(key))[0].items()}
  np.savez_compressed(pathlib.Path(__file__).parent / "backbones_mini.npz", **arrays)


if __name__ == "__main__":
  main()
