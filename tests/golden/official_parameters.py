"""Parameters of the golden DeepLabV3+: a function of name and shape, so that none is stored.

`deeplabv3plus_r50_171.npz` holds what the published PyTorch model computes with them in evaluation
mode (float32) for the images in `images.npz` [2, 128, 160, 3]:
  backbone_{res2,res5}_slice: first 16 channels, top-left 6 x 6, [2, 16, 6, 6];
  backbone_{res2,res5}_{mean,std}: of the first 64 channels over batch and positions, [64];
  logits_slice: logits at the input size, [:, :, ::8, ::8];
  sem0_argmax: label map of image 0; sem0_scores_at_pixels: its logits at `pixels` (y, x).
Arrays are channel-first. `deeplabv3plus_r50_171_names.json` lists the official names and shapes.
The file was made by loading `official_state()` into that model with strict names.
"""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def official_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of one official name; seeded by the CRC of the name."""
  leaf = name.rsplit(".", 1)[-1]
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if leaf == "num_batches_tracked":
    return np.zeros(shape, np.int64)
  if leaf == "running_var":
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  normal = rng.standard_normal(shape)
  if leaf in ("running_mean", "bias"):
    value = 0.1 * normal
  elif len(shape) == 1:  # scale of a norm
    value = 1.0 + 0.1 * normal
  else:  # convolution, O I kh kw
    value = normal / np.sqrt(np.prod(shape[1:]))
  return value.astype(np.float32)


def official_state(names_file: str) -> dict[str, np.ndarray]:
  """All parameters and buffers that a names file lists, in official layout."""
  names = json.loads((FOLDER / names_file).read_text())
  return {name: official_parameter(name, tuple(shape)) for name, shape in names.items()}
