"""Names of models whose weights have no place here, so that an error can say what a file is."""

import re
from collections.abc import Mapping

import numpy as np

# Any one name tells; the first that does counts.
_BY_NAME = tuple(
  (re.compile(pattern), title)
  for pattern, title in (
    (
      r"conv1_w",
      "a Caffe2 ResNet, which wants BGR images and has its strides in the 1x1 convolutions;"
      " take torchvision's ResNet",
    ),
    (
      r"(backbone\.)?bottom_up\..+",
      "a detection model of detectron2; its ResNets mostly come of Caffe2's, which want BGR images"
      " and have their strides in the 1x1 convolutions; take torchvision's ResNet",
    ),
    (
      r"(.+\.)?(embeddings\.patch_embeddings\.projection|embedder\.embedder\.convolution)\.weight",
      "a backbone of Hugging Face's transformers; take the file of its authors, of torchvision or"
      " of timm",
    ),
    (
      r"(.+\.)?attn\.(w_msa\.)?(cpb_mlp\..+|(v2_)?logit_scale)",
      "a Swin V2; take a Swin of the first version",
    ),
    (r"(.+\.)?mlp\.dwconv\.dwconv\.weight", "a MiT (SegFormer) or a PVT"),
    (r"(.+\.)?(dwconv|conv_dw)\.weight", "a ConvNeXt or of its kind"),
    (
      r"(.+\.)?blocks\.\d+\.(gamma_1|ls1\.gamma)",
      "a ViT with layer scale that is no DINO (BEiT, CaiT)",
    ),
    (r"(.+\.)?layers\.\d+\.ln1\.weight", "a ViT of MMSegmentation; take MAE's own file"),
    (r"(.+\.)?layer1\.0\.se(_module)?\..+", "a ResNet with squeeze and excitation"),
  )
)
_DEEP_STEM = re.compile(r"(?P<prefix>(.+\.)?)(stem\.\d|conv1\.0|conv3)\.weight")
_STEM_CHANNELS = 64  # of every published ResNet


def title(arrays: Mapping[str, np.ndarray]) -> str | None:
  """What a checkpoint is, where it is none of the models here but known, and what to take instead.

  Args:
    arrays: name -> array as in the file, of backbones without a prefix.
  """
  for pattern, kind in _BY_NAME:
    if any(pattern.fullmatch(name) for name in arrays):
      return kind
  stems = filter(None, map(_DEEP_STEM.fullmatch, arrays))
  if any(f"{stem['prefix']}layer1.0.conv1.weight" in arrays for stem in stems):
    return (
      "a ResNet with a deep stem of three convolutions (ResNetV1c of MMSegmentation, resnet50d of"
      " timm, CLIP's); take one whose first convolution is 7x7"
    )
  return _other_resnet(arrays)


def _other_resnet(arrays: Mapping[str, np.ndarray]) -> str | None:
  """The ResNets of other shapes among those that share their names."""
  block = (f"layer1.0.conv{i}.weight" for i in (1, 2, 3))
  stem, *shapes = (np.shape(arrays.get(name)) for name in ("conv1.weight", *block))
  if stem[:1] != (_STEM_CHANNELS,) or any(len(shape) not in (0, 4) for shape in shapes):
    return None
  first, second, third = shapes
  if first and not third:
    return "a ResNet-18 or -34, with blocks of two convolutions; take a ResNet-50 or -101"
  if second and second[0] != second[1]:
    return "a ResNeXt, with grouped convolutions; take a ResNet-50 or -101"
  if "layer3.23.conv1.weight" in arrays:  # a ResNet-101 ends with layer3.22
    return "a ResNet-152; take a ResNet-50 or -101"
  if first and first[0] != _STEM_CHANNELS:
    return "a wide ResNet; take a ResNet-50 or -101"
  return None
