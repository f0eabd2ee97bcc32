"""Parameters of EoMT's golden models: a function of released name and shape (numpy only).

`eomt_dinov2_s.npz` holds what the published PyTorch model (DINOv2-S, 3 blocks with 100 queries, 150
classes, 128 x 128 px) computes with them in float64, for `images.npz` `batch[:, :, :128]`:
  masked_class_logits [4, 1, 100, 151], image 0, every query masked in front of every block;
  masked_mask_logits_slice [4, 2, 10, 8, 8]: [:, :, ::10, ::4, ::4] of both images' mask logits;
  plain_class_logits [1, 2, 100, 151] and plain_mask_logits_slice [1, 2, 10, 8, 8]: the final
    prediction without masks;
  plain_mask_logits_final [25, 32, 32]: every fourth query of image 0;
  odd_argmax [97, 131] and odd_scores_at_pixels [64, 150] at odd_pixels (y, x): label map and scores
    of odd_image [97, 131, 3] through the windows.
Mask logits are channel-first. `eomt_*_names.json` lists the released names and shapes.
"""

import zlib

import numpy as np

from tests.golden import official_parameters

_PIXEL_VALUES = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)}
_TOKENS = ("cls_token", "reg_token", "register_tokens", "pos_embed", "mask_token")
_QUERIES = ("network.q.weight", "q.weight")
# Otherwise all masks would be positive everywhere, and the attention masks bar nothing.
_CENTRED = ("mask_head.2.weight", "mask_head.4.weight")


def eomt_parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The array of one released name; seeded by the CRC of the name."""
  leaf = name.rpartition(".")[2]
  if leaf == "attn_mask_probs":
    return np.zeros(shape, np.float32)
  if leaf in _PIXEL_VALUES:
    return np.array(_PIXEL_VALUES[leaf], np.float32).reshape(shape)
  if leaf == "empty_weight":
    return np.array([1.0] * (shape[0] - 1) + [0.1], np.float32)
  value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
  if leaf in ("gamma", "lambda1"):
    value = 0.4 + 0.1 * value
  elif leaf in _TOKENS:
    value = 0.3 * value
  elif leaf == "bias":
    value = 0.1 * value
  elif len(shape) == 1:  # scale of a norm
    value = 1.0 + 0.1 * value
  elif not name.endswith(_QUERIES):  # they have unit variance
    # Linear O I, convolution O I kh kw, transposed convolution I O kh kw.
    value /= np.sqrt(shape[0] if ".conv1." in name else np.prod(shape[1:]))
  if name.endswith("class_head.weight"):
    value = 12 * value
  if name.endswith(_CENTRED):
    value = (value - value.mean(1, keepdims=True)) * np.sqrt(2)
  return value.astype(np.float32)


def eomt_state(names_file: str) -> dict[str, np.ndarray]:
  """All parameters and buffers that a names file lists, in released layout."""
  shapes = official_parameters.official_shapes(names_file)
  return {name: eomt_parameter(name, shape) for name, shape in shapes.items()}
