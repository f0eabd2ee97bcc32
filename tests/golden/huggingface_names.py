"""Writes huggingface_names.json: names and shapes of small Mask2Formers of transformers.

python -m tests.golden.huggingface_names     needs torch and transformers (made with 5.23)

"swin" and "resnet" are what `save_pretrained` writes, with the names of the files on the hub;
"swin_in_memory" is the state dict of the running model, which has others.
"""

import json
import pathlib
import tempfile

from safetensors import safe_open
from transformers import (
  Mask2FormerConfig,
  Mask2FormerForUniversalSegmentation,
  ResNetConfig,
  SwinConfig,
)

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# The sizes of `swin_mini` and `resnet_small`.
BACKBONES = {
  "swin": SwinConfig(
    embed_dim=16, depths=[2, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=4, out_features=STAGES
  ),
  "resnet": ResNetConfig(
    embedding_size=32,
    hidden_sizes=[32, 64, 128, 256],
    depths=[1, 1, 1, 1],
    layer_type="basic",
    out_features=STAGES,
  ),
}


def build(backbone: str) -> Mask2FormerForUniversalSegmentation:
  """A model of 5 classes and 3 queries, one layer in either decoder, with random weights."""
  config = Mask2FormerConfig(
    backbone_config=BACKBONES[backbone],
    num_labels=5,
    num_queries=3,
    feature_size=32,
    mask_feature_size=32,
    hidden_dim=32,
    encoder_feedforward_dim=48,
    dim_feedforward=64,
    encoder_layers=1,
    decoder_layers=2,  # counts the prediction before the first
    num_attention_heads=4,
  )
  return Mask2FormerForUniversalSegmentation(config)


def main() -> None:
  """Writes the file beside this one."""
  names = {}
  for backbone in BACKBONES:
    model = build(backbone)
    with tempfile.TemporaryDirectory() as folder:
      model.save_pretrained(folder)
      with safe_open(f"{folder}/model.safetensors", "np") as file:
        names[backbone] = {name: file.get_slice(name).get_shape() for name in file.keys()}
    if backbone == "swin":
      state = model.state_dict().items()
      names["swin_in_memory"] = {name: list(tensor.shape) for name, tensor in state}
  path = pathlib.Path(__file__).with_suffix(".json")
  path.write_text(
    "{\n" + ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in names.items()) + "\n}\n"
  )


if __name__ == "__main__":
  main()
