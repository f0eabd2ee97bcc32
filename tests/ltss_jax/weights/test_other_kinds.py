"""Models that are not read are named in one message, and those that are read are not."""

import numpy as np
import pytest

from ltss_jax.weights import imagenet, other_kinds, readers

RESNET = {
  "conv1.weight": (64, 3, 7, 7),
  "layer1.0.conv1.weight": (64, 64, 1, 1),
  "layer1.0.conv2.weight": (64, 64, 3, 3),
  "layer1.0.conv3.weight": (256, 64, 1, 1),
}
SWIN = {"patch_embed.proj.weight": (96, 3, 4, 4), "layers.0.blocks.0.attn.qkv.weight": (288, 96)}


def zeros(shapes):
  return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def without(shapes, *names):
  return {name: shape for name, shape in shapes.items() if name not in names}


def deep_stem(stem, prefix=""):
  shapes = {stem: (32, 3, 3, 3)} | without(RESNET, "conv1.weight")
  return {prefix + name: shape for name, shape in shapes.items()}


KINDS = [
  ({"conv1_w": (64, 3, 7, 7)}, "a Caffe2 ResNet"),
  (deep_stem("stem.0.weight", "backbone.") | {"decode_head.x": (1,)}, "a ResNet with a deep stem"),
  (deep_stem("stem.0.weight"), "a ResNet with a deep stem"),
  (deep_stem("conv1.0.weight"), "a ResNet with a deep stem"),
  (RESNET | {"conv3.weight": (64, 32, 3, 3)}, "a ResNet with a deep stem"),
  (without(RESNET, "layer1.0.conv3.weight"), "a ResNet-18 or -34"),
  (RESNET | {"layer1.0.conv2.weight": (128, 4, 3, 3)}, "a ResNeXt"),
  (
    RESNET | {"layer1.0.conv1.weight": (128, 64, 1, 1), "layer1.0.conv2.weight": (128, 128, 3, 3)},
    "a wide ResNet",
  ),
  (RESNET | {"layer3.23.conv1.weight": (256, 1024, 1, 1)}, "a ResNet-152"),
  (RESNET | {"layer1.0.se.fc1.weight": (16, 256, 1, 1)}, "a ResNet with squeeze"),
  (SWIN | {"layers.0.blocks.0.attn.cpb_mlp.0.weight": (512, 2)}, "a Swin V2"),
  ({"features.1.0.attn.v2_logit_scale": (3, 1, 1)}, "a Swin V2"),
  ({"stages.0.blocks.0.attn.w_msa.logit_scale": (3, 1, 1)}, "a Swin V2"),
  ({"stages.0.0.dwconv.weight": (96, 1, 7, 7)}, "a ConvNeXt"),
  ({"stages.0.blocks.0.conv_dw.weight": (96, 1, 7, 7)}, "a ConvNeXt"),
  ({"block1.0.mlp.dwconv.dwconv.weight": (256, 1, 3, 3)}, "a MiT"),
  ({"blocks.0.ls1.gamma": (768,)}, "a ViT with layer scale"),
  ({"blocks.0.gamma_1": (768,)}, "a ViT with layer scale"),
  ({"backbone.layers.0.ln1.weight": (768,)}, "a ViT of MMSegmentation"),
  ({"swin.embeddings.patch_embeddings.projection.weight": (96, 3, 4, 4)}, "a backbone of Hugging"),
  ({"resnet.embedder.embedder.convolution.weight": (64, 3, 7, 7)}, "a backbone of Hugging"),
  (
    {
      "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7),
      "backbone.bottom_up.res2.0.conv1.weight": (64, 64, 1, 1),
    },
    "a detection model of detectron2",
  ),
]


@pytest.mark.parametrize(("shapes", "title"), KINDS)
def test_what_is_not_read_is_named(tmp_path, shapes, title):
  path = tmp_path / "model.pkl"
  readers.write_pickle(path, zeros(shapes))
  with pytest.raises(ValueError) as error:
    imagenet.recognise(readers.read_arrays(path))
  text = str(error.value)
  assert text.startswith(f"the checkpoint is {title}")
  assert text.endswith("torchvision Swin, MMSegmentation Swin, Swin, MAE ViT")
  assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
  "shapes",
  [
    RESNET,
    RESNET | {"layer3.22.conv1.weight": (256, 1024, 1, 1)},
    SWIN,
    {"conv1.weight": (6, 1, 5, 5), "conv3.weight": (16, 6, 5, 5)},
    {"stem.0.weight": (32, 3, 3, 3)},
    {"logit_scale": ()},
    {"conv1.weight": (), "layer1.0.conv1.weight": (3,)},
  ],
)
def test_others_are_not_taken_for_one_of_them(shapes):
  assert other_kinds.title(zeros(shapes)) is None
