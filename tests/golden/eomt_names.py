"""Writes eomt_names.json: names and shapes of small EoMTs of transformers.

python -m tests.golden.eomt_names     needs torch and transformers (made with 5.24)

They are what `save_pretrained` writes, which are the names of the running models.
"""

import json
import pathlib
import tempfile

from safetensors import safe_open
from transformers import (
  EomtConfig,
  EomtDinov3Config,
  EomtDinov3ForUniversalSegmentation,
  EomtForUniversalSegmentation,
  PreTrainedModel,
)

# The sizes of `dinov2_mini` and `dinov3_mini`, for crops of 64 px.
SIZES = dict(
  hidden_size=32,
  num_hidden_layers=3,
  num_attention_heads=2,
  image_size=64,
  num_blocks=2,
  num_queries=5,
  num_labels=7,
)
MODELS = {
  "dinov2": lambda: EomtForUniversalSegmentation(EomtConfig(**SIZES)),
  "swiglu": lambda: EomtForUniversalSegmentation(EomtConfig(**SIZES, use_swiglu_ffn=True)),
  "dinov3": lambda: EomtDinov3ForUniversalSegmentation(
    EomtDinov3Config(**SIZES, intermediate_size=128)
  ),
}


def saved(model: PreTrainedModel) -> dict[str, list[int]]:
  """Names and shapes of what a model saves."""
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    with safe_open(pathlib.Path(folder) / "model.safetensors", "np") as file:
      return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def main() -> None:
  """Writes the file beside this one."""
  lines = []
  for kind, build in MODELS.items():
    names = ",\n".join(f"{json.dumps(name)}: {shape}" for name, shape in saved(build()).items())
    lines.append(f"{json.dumps(kind)}: {{\n{names}\n}}")
  text = "{\n" + ",\n".join(lines) + "\n}\n"
  pathlib.Path(__file__).with_name("eomt_names.json").write_text(text)


if __name__ == "__main__":
  main()
