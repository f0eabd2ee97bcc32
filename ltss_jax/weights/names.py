"""Official (detectron2) names and layouts of the models here.

Every parameter has one path here and one name there; `official_name` and the layout functions are
all that the two conversions know.
"""

import re

import numpy as np

from ltss_jax import architectures

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

_EVERY_MODEL = (
  (r"^backbone/stem/", "backbone/stem/conv1/"),  # a ResNet's
  (r"/in_proj/kernel$", "/in_proj_weight"),
  (r"/in_proj/bias$", "/in_proj_bias"),
  (r"/conv/(kernel|bias)$", r"/\1"),
)
# Of the plain ViT's pyramid and EoMT's upscaling: there I O kh kw, here kh kw I O.
_TRANSPOSED_CONVOLUTION = re.compile(r"(backbone/res[23]/2|upscale/\d+/conv1)/kernel")

# Buffers that follow from the model: dropped when read, made anew when written.
REGENERATED = re.compile(
  r"(.*\.)?(num_batches_tracked|relative_position_index)|criterion\.empty_weight|attn_mask_probs"
)
COUNTS = "criterion.seesaw_loss.cum_samples"  # all zero where a file has none
PIXEL_BUFFERS = ("pixel_mean", "pixel_std")
# Paths here, of what training alone uses and official checkpoints do not have: the auxiliary pixel
# head of Mask2Former, the counts of DeepLabV3+'s and EoMT's Seesaw loss.
TRAINING_ONLY = re.compile(r"pixel_head/|seesaw_counts$")


def official_name(model: str, path: str) -> str:
  """Names a leaf as the official checkpoint does.

  Args:
    model: name of the architecture.
    path: path of a leaf in params or stats, with slashes: "backbone/res2/0/conv1/conv/kernel".

  Returns:
    The official name: "backbone.res2.0.conv1.weight".
  """
  for pattern, replacement in architectures.SPECS[model].official_names:
    path, count = re.subn(pattern, replacement, path)
    if count:
      break
  for pattern, replacement in _EVERY_MODEL:
    path = re.sub(pattern, replacement, path)
  module, _, leaf = path.rpartition("/")
  return f"{module}/{_LEAVES.get(leaf, leaf)}".replace("/", ".")


def from_official_layout(path: str, array: np.ndarray) -> np.ndarray:
  """Linear O I -> I O, convolutions O I kh kw -> kh kw I O; everything else stays as it is."""
  if not path.endswith("/kernel"):
    return array
  if array.ndim == 4:
    in_to_out = _TRANSPOSED_CONVOLUTION.fullmatch(path)
    return array.transpose(2, 3, 0, 1) if in_to_out else array.transpose(2, 3, 1, 0)
  return array.T


def to_official_layout(path: str, array: np.ndarray) -> np.ndarray:
  """The inverse of `from_official_layout`."""
  if not path.endswith("/kernel"):
    return array
  if array.ndim == 4:
    in_to_out = _TRANSPOSED_CONVOLUTION.fullmatch(path)
    return array.transpose(2, 3, 0, 1) if in_to_out else array.transpose(3, 2, 0, 1)
  return array.T


def upgrade(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Renames what older releases of Mask2Former named otherwise.

  Version 1 had no `pixel_decoder` in its names, and `static_query` for `query_feat`.
  """
  head = "sem_seg_head."
  old_head = any(name.startswith(f"{head}predictor.transformer_") for name in arrays) and not any(
    name.startswith(f"{head}pixel_decoder.") for name in arrays
  )
  renamed = {}
  for name, array in arrays.items():
    if old_head and name.startswith(head) and not name.startswith(f"{head}predictor."):
      name = name.replace(head, f"{head}pixel_decoder.", 1)
    renamed[name.replace(".static_query.", ".query_feat.")] = array
  return renamed
