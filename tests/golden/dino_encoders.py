"""Makes `dino_encoders.npz`: what timm and `transformers` make of encoders alone.

python -m tests.golden.dino_encoders    (needs torch, timm and transformers)

The encoders are narrow; every weight is a function of its name and shape
(`official_parameters.official_parameter`), so that the file holds names with shapes, and outputs:
  names: JSON of {kind: {name: shape}}, as the library saves them;
  <kind>_tokens: all tokens behind the final norm for `image` of the kind, [T, C];
  resized_<side>_{pos_embed,cls_token,patch_embed.proj.weight}: of the kind "dinov2", as timm
    resizes them for images of 128 and 512 px and patches of 16.
Kinds, with the judge of the tokens:
  dinov2, dinov2_giant: facebook's names; timm's `checkpoint_filter_fn` and model;
  dinov2_plain: the same without registers; no tokens;
  dinov2_timm: timm's names; no tokens;
  dinov2_huggingface, dinov2_giant_huggingface, dinov3_huggingface: names of `transformers` 5.24;
  dinov3: facebook's names; timm's `checkpoint_filter_fn` and model;
  dinov3_timm: timm's names, without biases of queries and values.
"""

import json
import pathlib

import numpy as np

from tests.golden import official_parameters

FOLDER = pathlib.Path(__file__).parent

DIM, DEPTH, HEADS, PATCH = 24, 2, 2, 16
GIANT_HIDDEN = 64  # 8 / 3 of DIM
SIDES = (128, 512)
RESIZED = ("pos_embed", "cls_token", "patch_embed.proj.weight")

Shapes = dict[str, tuple[int, ...]]


def image(kind: str) -> np.ndarray:
  """A normalised image [1, H, W, 3], which is square where positions are learned."""
  shape = (64, 96) if kind.startswith("dinov3") else (128, 128)
  return np.random.default_rng(3).standard_normal((1, *shape, 3)).astype(np.float32)


def state(shapes: Shapes) -> dict[str, np.ndarray]:
  """The weights under their names; masks of biases switch off those of the keys."""
  arrays = {}
  for name, shape in shapes.items():
    if name.endswith("bias_mask"):
      arrays[name] = np.repeat(np.float32([1, 0, 1]), shape[0] // 3)
    else:
      arrays[name] = official_parameters.official_parameter(name, tuple(shape))
  return arrays


def facebook_shapes(kind: str) -> Shapes:
  """Names and shapes of facebook's encoders, of which no package is installed.

  Read off vision_transformer.py of facebookresearch/dinov2 and dinov3.
  """
  rotary, giant = kind.startswith("dinov3"), "giant" in kind
  shapes: Shapes = {"cls_token": (1, 1, DIM), "mask_token": (1, DIM)}
  if rotary:
    shapes |= {"storage_tokens": (1, 4, DIM), "rope_embed.periods": (DIM // HEADS // 4,)}
  else:
    shapes["pos_embed"] = (1, 1 + 37 * 37, DIM)
  if kind in ("dinov2", "dinov2_giant"):
    shapes["register_tokens"] = (1, 4, DIM)
  patch = PATCH if rotary else 14
  shapes |= {"patch_embed.proj.weight": (DIM, 3, patch, patch), "patch_embed.proj.bias": (DIM,)}
  linears = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM)}
  if giant:
    linears |= {"mlp.w12": (2 * GIANT_HIDDEN, DIM), "mlp.w3": (DIM, GIANT_HIDDEN)}
  else:
    linears |= {"mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM)}
  for block in (f"blocks.{i}" for i in range(DEPTH)):
    for name, shape in linears.items():
      shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    if rotary:
      shapes[f"{block}.attn.qkv.bias_mask"] = (3 * DIM,)
    for leaf in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
      shapes[f"{block}.{leaf}"] = (DIM,)
    shapes |= {f"{block}.ls1.gamma": (DIM,), f"{block}.ls2.gamma": (DIM,)}
  return shapes | {"norm.weight": (DIM,), "norm.bias": (DIM,)}


def timm_model(kind: str, side: int = 128):
  """timm's encoder for images of one side, narrow, with its own random weights."""
  import timm

  narrow = dict(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0, patch_size=PATCH)
  if kind.startswith("dinov3"):
    name = "vit_small_patch16_dinov3" + ("" if kind == "dinov3_timm" else "_qkvb")
  else:
    size = "giant" if "giant" in kind else "small"
    name = f"vit_{size}_patch14_reg4_dinov2"
  return timm.create_model(name, pretrained=False, img_size=side, **narrow).eval()


def filtered(kind: str, model) -> dict:
  """The weights as timm's `checkpoint_filter_fn` of that model makes them of facebook's."""
  import torch
  from timm.models import eva, vision_transformer

  module = eva if kind.startswith("dinov3") else vision_transformer
  tensors = {k: torch.from_numpy(v) for k, v in state(facebook_shapes(kind)).items()}
  return module.checkpoint_filter_fn(tensors, model)


def transformers_model(kind: str):
  """The encoder of `transformers`."""
  import transformers

  narrow = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
  if kind.startswith("dinov3"):
    config = transformers.DINOv3ViTConfig(
      intermediate_size=4 * DIM, num_register_tokens=4, image_size=128, **narrow
    )
    return transformers.DINOv3ViTModel(config).eval()
  config = transformers.Dinov2WithRegistersConfig(
    image_size=128, patch_size=PATCH, use_swiglu_ffn="giant" in kind, **narrow
  )
  return transformers.Dinov2WithRegistersModel(config).eval()


def judged(kind: str) -> tuple[Shapes, np.ndarray]:
  """Runs the judge of a kind that has tokens.

  Returns:
    (names and shapes of the file, tokens [T, C]).
  """
  import torch

  pixels = torch.from_numpy(image(kind).transpose(0, 3, 1, 2).copy())
  if kind.endswith(("_huggingface", "_timm")):
    model = (timm_model if kind.endswith("_timm") else transformers_model)(kind)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = {name: torch.from_numpy(array) for name, array in state(shapes).items()}
  else:
    model, shapes = timm_model(kind), facebook_shapes(kind)
    weights = filtered(kind, model)
  model.load_state_dict(weights)
  with torch.no_grad():
    if kind.endswith("_huggingface"):
      return shapes, model(pixels).last_hidden_state[0].numpy()
    return shapes, model.forward_features(pixels)[0].numpy()


JUDGED = (
  "dinov2",
  "dinov2_giant",
  "dinov2_huggingface",
  "dinov2_giant_huggingface",
  "dinov3",
  "dinov3_timm",
  "dinov3_huggingface",
)


def resized(side: int) -> dict[str, np.ndarray]:
  """What timm resizes for images of a side: name -> array."""
  weights = filtered("dinov2", timm_model("dinov2", side))
  return {name: weights[name].numpy() for name in RESIZED}


def main() -> None:
  """Writes the golden file."""
  arrays, names = {}, {"dinov2_plain": facebook_shapes("dinov2_plain")}
  for kind in JUDGED:
    names[kind], arrays[f"{kind}_tokens"] = judged(kind)
  model = timm_model("dinov2")
  names["dinov2_timm"] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  for side in SIDES:
    arrays |= {f"resized_{side}_{name}": array for name, array in resized(side).items()}
  np.savez_compressed(FOLDER / "dino_encoders.npz", names=json.dumps(names), **arrays)


if __name__ == "__main__":
  main()
