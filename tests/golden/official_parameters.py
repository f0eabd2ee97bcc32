"""Parameters of the golden models: a function of name and shape, so that none is stored.

`deeplabv3plus_r50_171.npz` holds what the published PyTorch model computes with them in evaluation
mode (float32) for the images in `images.npz` [2, 128, 160, 3]:
  backbone_{res2,res5}_slice: first 16 channels, top-left 6 x 6, [2, 16, 6, 6];
  backbone_{res2,res5}_{mean,std}: of the first 64 channels over batch and positions, [64];
  logits_slice: logits at the input size, [:, :, ::8, ::8];
  sem0_argmax: label map of image 0; sem0_scores_at_pixels: its logits at `pixels` (y, x).
Arrays are channel-first. `*_names.json` lists the official names and shapes of a model. The files
were made by loading `official_state()` into the published models with strict names.
"""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent

_EMBEDDINGS = ("query_feat", "query_embed", "level_embed", "static_query")
# Standard deviation of tables, by the last part of the name.
_TABLES = {
  "relative_position_bias_table": 0.5,
  "rel_pos_h": 0.2,
  "rel_pos_w": 0.2,
  "pos_embed": 0.1,
  "cls_token": 0.1,
}


def official_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of one official name; seeded by the CRC of the name."""
  leaf = name.rsplit(".", 1)[-1]
  buffer = _buffer(leaf, shape)
  if buffer is not None:
    return buffer
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if leaf == "running_var":
    value = rng.uniform(0.5, 1.5, shape)
  elif name.endswith("sampling_offsets.bias"):
    value = rng.uniform(-2.0, 2.0, shape)
  else:
    value = rng.standard_normal(shape)
    if name.endswith("sampling_offsets.weight"):
      value = 0.5 * value / np.sqrt(shape[1])
    elif leaf in _TABLES:
      value = _TABLES[leaf] * value
    elif leaf == "running_mean" or leaf.endswith("bias"):
      value = 0.1 * value
    elif any(embedding in name for embedding in _EMBEDDINGS):
      pass  # unit variance
    elif len(shape) == 1:  # scale of a norm
      value = 1.0 + 0.1 * value
    else:  # convolution O I kh kw, linear O I
      value = value / np.sqrt(np.prod(shape[1:]))
  return _livened(name, shape, value).astype(np.float32)


def _buffer(leaf: str, shape: tuple[int, ...]) -> np.ndarray | None:
  """What is not drawn; None for parameters."""
  if leaf == "num_batches_tracked":
    return np.zeros(shape, np.int64)
  if leaf == "cum_samples":
    return np.zeros(shape, np.float32)
  if leaf == "empty_weight":
    return np.array([1.0] * (shape[0] - 1) + [0.1], np.float32)
  if leaf == "relative_position_index":
    side = round(shape[0] ** 0.5)
    y, x = np.divmod(np.arange(side * side), side)
    dy, dx = np.subtract.outer(y, y), np.subtract.outer(x, x)
    return ((dy + side - 1) * (2 * side - 1) + dx + side - 1).astype(np.int64)
  return None


def _livened(name: str, shape: tuple[int, ...], value: np.ndarray) -> np.ndarray:
  """Scales a few of Mask2Former's layers.

  Otherwise all mask logits were positive, so that the attention mask blocked nothing, and all
  queries became one vector.
  """
  centred = ("mask_features.weight", "mask_embed.layers.1.weight", "mask_embed.layers.2.weight")
  if name.endswith(centred):
    rows = value.reshape(shape[0], -1)
    return ((rows - rows.mean(1, keepdims=True)) * np.sqrt(2.0)).reshape(shape)
  if name.endswith("predictor.class_embed.weight"):
    return 12.0 * value
  if "predictor.transformer_" in name:
    if ".out_proj." in name or ".linear2." in name:
      return 0.15 * value
    if name.endswith("in_proj_weight"):  # [3C, C], query and key twice as large
      factors = np.repeat([2.0, 2.0, 1.0], shape[0] // 3)
      return factors[:, None] * value
  if "predictor." in name and name.endswith("norm.bias"):
    return 0.3 * value
  return value


def official_shapes(names_file: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of a names file."""
  names = json.loads((FOLDER / names_file).read_text())
  return {name: tuple(shape) for name, shape in names.items()}


def official_state(names_file: str) -> dict[str, np.ndarray]:
  """All parameters and buffers that a names file lists, in official layout."""
  return {name: official_parameter(name, s) for name, s in official_shapes(names_file).items()}
