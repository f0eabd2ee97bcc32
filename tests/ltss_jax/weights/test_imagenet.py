"""ImageNet backbones: ResNets and Swins of several libraries, MAE's ViT."""

import functools

import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import backbones
from ltss_jax.weights import imagenet, names, official, readers, resizing, trees
from ltss_jax.weights.conversion_report import Report
from tests import recipes
from tests.renaming import renamed


@functools.cache
def abstract(backbone):
  """(params, stats) of a backbone within a model, as shapes."""
  config = recipes.backbone(backbone)
  module = nnx.eval_shape(lambda: backbones.build(config, rngs=nnx.Rngs(0)))
  _, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  return {"backbone": nnx.to_pure_dict(params)}, {"backbone": nnx.to_pure_dict(stats)}


def official_arrays(backbone):
  """Random weights of a backbone under official names, without "backbone."."""
  rng = np.random.default_rng(0)
  arrays = {}
  for tree in abstract(backbone):
    for path, leaf in trees.flatten(tree).items():
      array = rng.standard_normal(leaf.shape).astype(np.float32)
      name = names.official_name("mask2former", path).removeprefix("backbone.")
      arrays[name] = names.to_official_layout(path, array)
  return arrays


def load(backbone, arrays):
  """What the conversion does with a backbone file."""
  found = imagenet.recognise(arrays)
  params, stats = abstract(backbone)
  imagenet.fit_tables(found, official.official_shapes("mask2former", params, stats))
  done = Report(dropped=found.dropped, changed=found.changed)
  params, stats = official.load_official(
    "mask2former", params, stats, found.arrays, may_miss=found.afresh, done=done
  )
  return found, trees.flatten(params) | trees.flatten(stats), done


def torchvision_name(name):
  """The inverse of the renaming, from detectron2's names."""
  parts = name.split(".")
  if parts[0].startswith("res"):
    parts[0] = f"layer{int(parts[0][3:]) - 1}"
  else:
    parts = parts[1:]  # stem
  if "shortcut" in parts:
    at = parts.index("shortcut")
    parts[at : at + 2] = (
      ["downsample", "1"] if parts[at + 1] == "norm" else ["downsample", "0", parts[at + 1]]
    )
  elif "norm" in parts:
    at = parts.index("norm")
    parts[at - 1 : at + 1] = [f"bn{parts[at - 1][4:]}"]
  return ".".join(parts)


def resnet_file(kind):
  arrays = official_arrays("resnet_small")
  if kind == "torchvision":
    arrays = {torchvision_name(name): array for name, array in arrays.items()}
    arrays |= {"fc.weight": np.zeros((10, 256)), "fc.bias": np.zeros(10)}
    arrays["bn1.num_batches_tracked"] = np.array(5)
  elif kind == "backbone":
    arrays = {f"backbone.{name}": array for name, array in arrays.items()}
  else:  # what Mask2Former's conversion of torchvision's file makes
    arrays |= {"stem.fc.weight": np.zeros((10, 256)), "stem.fc.bias": np.zeros(10)}
  return arrays


@pytest.mark.parametrize("kind", ["torchvision", "detectron2", "backbone"])
def test_resnet_files(kind):
  arrays = resnet_file(kind)
  found, leaves, done = load("resnet_small", arrays)
  assert found.title == f"{'torchvision' if kind == 'torchvision' else 'detectron2'} ResNet"
  expected = official_arrays("resnet_small")
  assert done.converted == len(leaves) == len(expected)
  for path, leaf in leaves.items():
    name = names.official_name("mask2former", path).removeprefix("backbone.")
    np.testing.assert_array_equal(names.to_official_layout(path, leaf), expected[name])
  assert done.missing == []
  assert len(done.dropped) == (0 if kind == "backbone" else 2)


def test_the_names_are_torchvisions_own():
  torchvision = pytest.importorskip("torchvision")
  arrays = {k: v.numpy() for k, v in torchvision.models.resnet50().state_dict().items()}
  _, leaves, done = load("resnet50", arrays)
  assert (done.converted, done.missing, done.dropped) == (265, [], ["fc.weight", "fc.bias"])
  kernel = arrays["layer3.5.conv2.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(leaves["backbone/res4/5/conv2/conv/kernel"], kernel)
  shortcut = arrays["layer2.0.downsample.1.running_var"]
  np.testing.assert_array_equal(leaves["backbone/res3/0/shortcut/norm/var"], shortcut)


def swin_file(window):
  """A classifier's file: no norms of the outputs; a norm, a head and buffers beside."""
  arrays = {k: v for k, v in official_arrays("swin_mini").items() if not k.startswith("norm")}
  rng = np.random.default_rng(1)
  for name in arrays:
    if name.endswith("table"):
      shape = ((2 * window - 1) ** 2, arrays[name].shape[1])
      arrays[name] = rng.standard_normal(shape).astype(np.float32)
  index = "layers.0.blocks.0.attn.relative_position_index"
  arrays[index] = np.zeros((window**2, window**2), np.int64)
  arrays["layers.0.blocks.1.attn_mask"] = np.zeros((64, 49, 49), np.float32)
  arrays |= {"norm.weight": np.ones(128), "norm.bias": np.ones(128)}
  return arrays | {"head.weight": np.ones((21841, 128)), "head.bias": np.ones(21841)}


def test_swin_files():
  arrays = swin_file(window=4)
  found, leaves, done = load("swin_mini", arrays)
  assert found.title == "Swin"
  assert sorted(done.missing) == [
    f"backbone.norm{i}.{leaf}" for i in range(4) for leaf in ("bias", "weight")
  ]
  assert done.dropped == [
    "layers.0.blocks.1.attn_mask",
    "norm.weight",
    "norm.bias",
    "head.weight",
    "head.bias",
  ]
  table = "layers.2.blocks.1.attn.relative_position_bias_table"
  np.testing.assert_array_equal(leaves[f"backbone/{table.replace('.', '/')}"], arrays[table])
  assert "backbone/norm0/scale" not in leaves
  assert "- backbone.norm*.weight (4): not in the file, starts afresh" in str(done)
  assert "+ head.bias: not part of the model, dropped" in str(done)


def test_swin_tables_are_resized_to_another_window():
  arrays = swin_file(window=7)
  _, leaves, done = load("swin_mini", arrays)
  table = leaves["backbone/layers/1/blocks/0/attn/relative_position_bias_table"]
  assert table.shape == (49, 2)
  expected = resizing.resize_table(
    arrays["layers.1.blocks.0.attn.relative_position_bias_table"], 49, antialias=False
  )
  np.testing.assert_array_equal(table, expected)
  assert len(done.changed) == 6
  assert (
    "~ backbone.layers.1.blocks.0.attn.relative_position_bias_table: resized, (169, 2) -> (49, 2)"
    in str(done)
  )


# From the official names to those of other libraries.
SWINS = {
  "timm Swin": (
    (r"^layers\.2\.down", "layers.3.down"),
    (r"^layers\.1\.down", "layers.2.down"),
    (r"^layers\.0\.down", "layers.1.down"),
  ),
  "torchvision Swin": (
    (r"^patch_embed\.proj", "features.0.0"),
    (r"^patch_embed\.norm", "features.0.2"),
    (r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 2}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
  ),
  "MMSegmentation Swin": (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"\.attn\.(?!mask)", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
  ),
}


@pytest.mark.parametrize("title", SWINS)
def test_swin_files_of_other_libraries(title):
  expected = swin_file(window=4)
  arrays = renamed(expected, *SWINS[title])
  found, leaves, done = load("swin_mini", arrays)
  assert found.title == title
  _, official_leaves, official_done = load("swin_mini", expected)
  assert leaves.keys() == official_leaves.keys()
  assert done.dropped[-4:] == official_done.dropped[-4:]
  assert (done.converted, done.missing) == (official_done.converted, official_done.missing)
  for path, leaf in leaves.items():
    other = official_leaves[path]
    if title == "MMSegmentation Swin" and "/downsample/" in path:
      assert (leaf != other).any(), path
      leaf, other = np.sort(leaf, axis=0), np.sort(other, axis=0)
    np.testing.assert_array_equal(leaf, other, err_msg=path)
  assert len(done.changed) == (title == "MMSegmentation Swin")


def unfold(x):
  """torch.nn.Unfold(kernel_size=2, stride=2): [H, W, C] -> [H/2, W/2, 4 C]; channels outermost."""
  height, width, channels = x.shape
  merged = np.zeros((height // 2, width // 2, 4 * channels), x.dtype)
  for channel in range(channels):
    for row in range(2):
      for column in range(2):
        merged[..., 4 * channel + 2 * row + column] = x[row::2, column::2, channel]
  return merged


def normalised(x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def test_merging_of_mmsegmentation_gives_the_same_with_the_reordered_weights():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((4, 6, 3)).astype(np.float32)
  norm = {leaf: rng.standard_normal(12).astype(np.float32) for leaf in ("weight", "bias")}
  reduction = rng.standard_normal((6, 12)).astype(np.float32)
  theirs = (normalised(unfold(x)) * norm["weight"] + norm["bias"]) @ reduction.T
  order = imagenet.mmseg_merging_to_official
  scale, bias = (order(f"layers.0.downsample.norm.{leaf}", array) for leaf, array in norm.items())
  weight = order("layers.0.downsample.reduction.weight", reduction)
  # The official merging, by its slices.
  corners = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
  ours = (normalised(np.concatenate(corners, -1)) * scale + bias) @ weight.T
  np.testing.assert_allclose(ours, theirs, atol=1e-5)  # sums of twelve products, in other orders


def test_reordering_by_hand():
  # Two channels a and b; digits are row and column of the merged cell.
  theirs = np.array(["a00", "a01", "a10", "a11", "b00", "b01", "b10", "b11"])
  ours = imagenet.mmseg_merging_to_official("backbone.layers.0.downsample.norm.bias", theirs)
  assert ours.tolist() == ["a00", "b00", "a10", "b10", "a01", "b01", "a11", "b11"]
  other = imagenet.mmseg_merging_to_official("backbone.layers.0.blocks.0.norm1.bias", theirs)
  assert other is theirs


SEGMENTATION_HEADS = ("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight")


@pytest.mark.parametrize(
  ("kind", "prefix", "beside"),
  [
    ("torchvision", "backbone.", SEGMENTATION_HEADS),  # ResNet of MMSegmentation
    ("torchvision", "backbone.", ("classifier.0.convs.0.0.weight", "aux_classifier.4.bias")),
    ("torchvision", "encoder.", ("segmentation_head.0.weight",)),
    ("torchvision", "module.encoder_q.", ("module.queue",)),
    ("MMSegmentation Swin", "backbone.", SEGMENTATION_HEADS),
  ],
)
def test_backbones_inside_of_other_models(tmp_path, caplog, kind, prefix, beside):
  caplog.set_level("INFO", "absl")
  backbone = "resnet_small" if kind == "torchvision" else "swin_mini"
  arrays = resnet_file(kind) if kind == "torchvision" else renamed(swin_file(4), *SWINS[kind])
  content = {prefix + name: array for name, array in arrays.items()}
  content |= dict.fromkeys(beside, np.zeros(2, np.float32))
  readers.write_pickle(tmp_path / "whole.pth", content)
  _, leaves, _ = load(backbone, readers.read_arrays(tmp_path / "whole.pth"))
  _, expected, _ = load(backbone, arrays)
  assert leaves.keys() == expected.keys()
  for path, leaf in leaves.items():
    np.testing.assert_array_equal(leaf, expected[path])
  assert f"taken without their prefix {prefix}" in caplog.text
  assert f"{len(beside)} names beside {prefix} are left out, such as {beside[0]}" in caplog.text
  segmentation = beside[0].startswith(("decode_head", "classifier"))
  assert ("may have been trained with dilation" in caplog.text) == segmentation


def mae_file(grid):
  arrays = {
    name: array
    for name, array in official_arrays("vit_mini").items()
    if not name.startswith("res") and "rel_pos" not in name
  }
  rng = np.random.default_rng(1)
  arrays["pos_embed"] = rng.standard_normal((1, 1 + grid * grid, 32)).astype(np.float32)
  arrays |= {"cls_token": np.ones((1, 1, 32)), "mask_token": np.ones((1, 1, 16))}
  return arrays | {"decoder_pos_embed": np.ones((1, 17, 16)), "decoder_embed.bias": np.ones(16)}


def test_mae_files():
  arrays = mae_file(grid=4)
  found, leaves, done = load("vit_mini", arrays)
  assert found.title == "MAE ViT"
  np.testing.assert_array_equal(leaves["backbone/pos_embed"], arrays["pos_embed"][:, 1:])
  assert set(done.dropped) == {"cls_token", "mask_token", "decoder_pos_embed", "decoder_embed.bias"}
  assert {name.split(".")[1] for name in done.missing} == {"res2", "res3", "res4", "res5", "blocks"}
  assert all("rel_pos" in name for name in done.missing if "blocks" in name)
  patch = leaves["backbone/patch_embed/proj/kernel"]
  np.testing.assert_array_equal(patch, arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0))


def test_mae_position_embeddings_are_resized_to_another_grid():
  arrays = mae_file(grid=6)
  _, leaves, done = load("vit_mini", arrays)
  expected = resizing.resize_table(arrays["pos_embed"][0, 1:], 16, antialias=False)[None]
  np.testing.assert_array_equal(leaves["backbone/pos_embed"], expected)
  assert done.changed == [
    "backbone.pos_embed: without the entry of the class token",
    "backbone.pos_embed: resized, (1, 36, 32) -> (1, 16, 32)",
  ]


@pytest.mark.parametrize("remove", ["blocks.1.mlp.fc1.bias", "norm.weight"])
def test_what_the_file_should_have_is_still_required(remove):
  arrays = mae_file(grid=4)
  del arrays[remove]
  with pytest.raises(ValueError, match=rf"- backbone.{remove} .*: missing in the checkpoint"):
    load("vit_mini", arrays)


def test_unknown_and_caffe2_names():
  with pytest.raises(ValueError, match=r"names of no known kind, such as a, b, c\. Known are"):
    imagenet.recognise(dict.fromkeys("dcba", np.zeros(1)))
  with pytest.raises(ValueError, match="Caffe2 ResNet.*take torchvision's"):
    imagenet.recognise({"conv1_w": np.zeros(1)})
