"""Released EoMT models: their names, and the buffers beside the weights, both ways.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025. The model lies in
`network.` and its encoder in `network.encoder.`; a compiled module adds `_orig_mod.`. Official
names are those without these three.
"""

from collections.abc import Mapping

import numpy as np

from ltss_jax.architectures.architecture import PIXEL_MEAN, PIXEL_STD

_COMPILED = "_orig_mod."  # of torch.compile, in front of the names in a compiled module
_NETWORK, _ENCODER = "network.", "encoder."
_BACKBONE = "backbone."
_PIXEL_BUFFERS = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}  # here of 0-255, there of 0-1
_NO_OBJECT_WEIGHT = 0.1  # the last of `criterion.empty_weight`, of every published recipe
CLASS_BIAS = "class_head.bias"


def _mark(name: str) -> str:
  """Pattern of a name of the model, compiled or not, with or without `network.`."""
  joint = rf"\.(?:{_COMPILED.removesuffix('.')}\.)*"
  return rf"(?:network{joint})?" + name.replace(".", joint)


# Patterns of names by which a file is known, and what its encoders' names begin with.
MARKS = (_mark(CLASS_BIAS), _mark("upscale.0.conv1.weight"))
ENCODERS = (_NETWORK, _ENCODER, _BACKBONE)


def to_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames the arrays of a released EoMT; buffers of pixel values become those of 0-255.

  Args:
    arrays: its state dict.

  Returns:
    official name -> array. Names that are not known stay as they are.

  Raises:
    ValueError: two names become one.
  """
  official: dict[str, np.ndarray] = {}
  origin: dict[str, str] = {}
  for name, array in arrays.items():
    new = name.replace(_COMPILED, "").removeprefix(_NETWORK).removeprefix(_ENCODER)
    if new in official:
      raise ValueError(f"{origin[new]} and {name} both name {new}; give a file with one of them")
    origin[new] = name
    official[new] = 255.0 * array if new in _PIXEL_BUFFERS else array
  return official


def from_official(
  arrays: Mapping[str, np.ndarray], num_classes: int, num_blocks: int
) -> dict[str, np.ndarray]:
  """Names weights as the released files do, with their buffers.

  Args:
    arrays: official name -> array; an encoder alone will do.
    num_classes: C.
    num_blocks: n, blocks that carry the queries.

  Returns:
    released name -> array. The probabilities of masks are those of a trained model: zero.
  """
  released = {}
  for name, array in arrays.items():
    place = _NETWORK + _ENCODER if name.startswith(_BACKBONE) else _NETWORK
    released[place + name] = array
  for name, values in _PIXEL_BUFFERS.items():
    buffer = np.array(values).reshape(1, 3, 1, 1) / 255
    released[_NETWORK + _ENCODER + name] = buffer.astype(np.float32)
  if CLASS_BIAS in arrays:
    weight = np.ones(num_classes + 1, np.float32)
    weight[-1] = _NO_OBJECT_WEIGHT
    released["criterion.empty_weight"] = weight
    released[f"{_NETWORK}attn_mask_probs"] = np.zeros(num_blocks, np.float32)
  return released
