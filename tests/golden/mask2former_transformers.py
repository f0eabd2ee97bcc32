"""Makes `mask2former_transformers.npz`: what the Mask2Former of `transformers` computes.

python -m tests.golden.mask2former_transformers    (needs torch and transformers)

The models have ResNet-50 and Swin-T backbones, two encoder and three decoder layers; every weight
is a function of its name and shape (`official_parameters.official_parameter`), so that the file
holds only names with shapes, and the outputs for one image of 64 x 96 px:
  <backbone>_names: JSON of {name: shape};
  <backbone>_class_logits: of all predictions, [4, Q, C + 1];
  <backbone>_mask_logits: of the last prediction, [Q, 16, 24].
"""

import json
import pathlib

import numpy as np

from tests.golden import official_parameters

FOLDER = pathlib.Path(__file__).parent

NUM_CLASSES, NUM_QUERIES = 20, 30
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def image() -> np.ndarray:
  """A normalised image [1, 64, 96, 3]."""
  return np.random.default_rng(5).standard_normal((1, 64, 96, 3)).astype(np.float32)


def build(backbone: str):
  """The torch model with its golden weights, in evaluation mode."""
  import torch
  import transformers

  backbones = {
    "resnet50": transformers.ResNetConfig(out_features=STAGES),
    "swin_t": transformers.SwinConfig(
      embed_dim=96,
      depths=[2, 2, 6, 2],
      num_heads=[3, 6, 12, 24],
      window_size=7,
      out_features=STAGES,
    ),
  }
  config = transformers.Mask2FormerConfig(
    backbone_config=backbones[backbone],
    num_labels=NUM_CLASSES,
    num_queries=NUM_QUERIES,
    encoder_layers=2,
    decoder_layers=4,  # the package counts the prediction before the first layer
  )
  model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
  state = {
    name: torch.from_numpy(weight(name, tuple(value.shape)))
    for name, value in model.state_dict().items()
  }
  model.load_state_dict(state)
  return model


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The golden weight of a name, with the scales that make masks and classes differ."""
  value = official_parameters.official_parameter(name, shape)
  if name.startswith("class_predictor.weight"):
    value = 12 * value
  if "mask_embedder.1.0.weight" in name or "mask_embedder.2.0.weight" in name:
    value = (value - value.mean(1, keepdims=True)) * np.float32(np.sqrt(2))
  if "mask_projection.weight" in name:
    value = (value - value.mean((1, 2, 3), keepdims=True)) * np.float32(np.sqrt(2))
  return value


def outputs(model) -> tuple[np.ndarray, np.ndarray]:
  """(class logits of all predictions [4, Q, C + 1], last mask logits [Q, h, w])."""
  import torch

  with torch.no_grad():
    result = model(torch.from_numpy(image().transpose(0, 3, 1, 2)), output_auxiliary_logits=True)
  auxiliary = [x["class_queries_logits"] for x in result.auxiliary_logits]
  classes = torch.stack([*auxiliary, result.class_queries_logits])[:, 0]
  return classes.numpy(), result.masks_queries_logits[0].numpy()


def main() -> None:
  """Writes the file."""
  arrays = {}
  for backbone in ("resnet50", "swin_t"):
    model = build(backbone)
    names = {name: list(value.shape) for name, value in model.state_dict().items()}
    arrays[f"{backbone}_names"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    arrays[f"{backbone}_class_logits"], masks = outputs(model)
    arrays[f"{backbone}_mask_logits"] = masks
  np.savez_compressed(FOLDER / "mask2former_transformers.npz", **arrays)


if __name__ == "__main__":
  main()
