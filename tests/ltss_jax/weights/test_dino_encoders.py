"""DINO encoders alone against timm and `transformers`, golden and live."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import ade20k
from ltss_jax import checkpoint, convert
from ltss_jax.models import dino
from ltss_jax.weights import imagenet, official, readers, trees
from ltss_jax.weights.conversion_report import Report
from tests.golden import dino_encoders as judge
from tests.programs import GOLDEN
from tests.renaming import renamed

# Float32 sums in another order: 9e-6 was seen, at magnitudes of 4.
TOKENS = dict(atol=5e-5)
# timm inverts the resize of patches in float32: 3e-7 was seen. Magnitudes are 0.3.
RESIZED = dict(atol=2e-5)


@functools.cache
def golden():
  with np.load(GOLDEN / "dino_encoders.npz") as arrays:
    return dict(arrays)


def shapes(kind):
  return json.loads(str(golden()["names"]))[kind]


def state(kind):
  return judge.state(shapes(kind))


@functools.cache
def split(rotary, swiglu, side=128):
  """(graph definition, parameters as shapes) of a narrow encoder."""
  config = dino.DinoConfig(
    judge.DEPTH, judge.DIM, judge.HEADS, rotary=rotary, swiglu=swiglu, patch=judge.PATCH
  )
  build = dino.DinoV3 if rotary else functools.partial(dino.DinoV2, side=side)
  module = nnx.eval_shape(lambda: build(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
  graphdef, params = nnx.split(module)
  return graphdef, {"backbone": nnx.to_pure_dict(params)}


def encoder(kind, *arguments):
  return split(kind.startswith("dinov3"), "giant" in kind, *arguments)


def load(kind, arrays, side=128):
  """What the conversion does with a file: (leaves by path, report)."""
  found = imagenet.recognise(arrays)
  _, params = encoder(kind, side)
  imagenet.fit_tables(found, official.official_shapes("mask2former", params, {}))
  done = Report(dropped=found.dropped, changed=found.changed)
  params, _ = official.load_official(
    "mask2former", params, {}, found.arrays, may_miss=found.afresh, done=done
  )
  return trees.flatten(params), done


def tokens(kind, leaves):
  """Tokens [T, C] of the judges' image, behind the final norm."""
  graphdef, abstract = encoder(kind)
  params = trees.fill(abstract, leaves)["backbone"]

  @jax.jit
  def forward(params, image):
    model = nnx.merge(graphdef, params)
    x, rotation = model.embed(image), model.rotation(image, None)
    for block in model.blocks:
      x = block(x, None, rotation)
    return model.norm(x)[0]

  return np.asarray(forward(params, judge.image(kind)))


@pytest.mark.parametrize("kind", judge.JUDGED)
def test_tokens_are_the_judges(kind):
  leaves, done = load(kind, state(kind))
  assert done.missing == []
  np.testing.assert_allclose(tokens(kind, leaves), golden()[f"{kind}_tokens"], **TOKENS)


@pytest.mark.parametrize("kind", judge.JUDGED)
def test_golden_tokens_are_those_of_the_installed_libraries(kind):
  pytest.importorskip("timm")
  pytest.importorskip("transformers")
  names, expected = judge.judged(kind)
  assert {name: list(shape) for name, shape in names.items()} == shapes(kind)
  np.testing.assert_allclose(golden()[f"{kind}_tokens"], expected, **TOKENS)


def paths(name):
  return "backbone/" + name.replace(".", "/").replace("weight", "kernel")


@pytest.mark.parametrize("side", judge.SIDES)
def test_positions_and_patches_are_resized_as_timm_does(side):
  leaves, done = load("dinov2", state("dinov2"), side)
  for name in judge.RESIZED:
    array = golden()[f"resized_{side}_{name}"]
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    np.testing.assert_allclose(leaves[paths(name)], array, **RESIZED)
  grid = (side // 16) ** 2
  assert sorted(done.changed) == [
    "backbone.patch_embed.proj.weight: resized, (24, 3, 14, 14) -> (24, 3, 16, 16)",
    f"backbone.pos_embed: resized, (1, 1369, 24) -> (1, {grid}, 24)",
    "backbone.pos_embed: the first one is the class token's, added to it",
  ]
  assert done.dropped == ["mask_token"]


@pytest.mark.parametrize("side", judge.SIDES)
def test_golden_sizes_are_those_of_the_installed_timm(side):
  pytest.importorskip("timm")
  for name, array in judge.resized(side).items():
    np.testing.assert_allclose(golden()[f"resized_{side}_{name}"], array, **RESIZED)


def assert_same(leaves, expected):
  assert leaves.keys() == expected.keys()
  for path, leaf in leaves.items():
    np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_nothing_is_resized_where_grid_and_patch_are_the_models():
  arrays = state("dinov2_timm")
  leaves, done = load("dinov2", arrays)
  assert done.changed == done.dropped == done.missing == []
  assert done.converted == len(arrays)
  for name in ("pos_embed", "cls_token", "reg_token"):
    np.testing.assert_array_equal(leaves[f"backbone/{name}"], arrays[name])
  # Facebook's positions for patches of 14 and 518 px are those for 592 px here.
  arrays = state("dinov2")
  leaves, done = load("dinov2", arrays, side=592)
  np.testing.assert_array_equal(leaves["backbone/pos_embed"], arrays["pos_embed"][:, 1:])
  expected = arrays["cls_token"] + arrays["pos_embed"][:, :1]
  np.testing.assert_array_equal(leaves["backbone/cls_token"], expected)
  assert not any("pos_embed: resized" in text for text in done.changed)


def test_blocks_in_chunks_of_a_training_checkpoint(tmp_path):
  """Each chunk numbers its blocks through; the teacher's backbone is what people use."""
  chunked = renamed(state("dinov2"), (r"^blocks\.(\d+)\.", r"blocks.\1.\1."))
  content = {f"backbone.{name}": array for name, array in chunked.items()}
  content["dino_head.mlp.0.weight"] = np.zeros((4, judge.DIM), np.float32)
  readers.write_pickle(tmp_path / "teacher.pth", content)
  leaves, _ = load("dinov2", readers.read_arrays(tmp_path / "teacher.pth"))
  assert_same(leaves, load("dinov2", state("dinov2"))[0])


def test_an_encoder_without_registers():
  leaves, done = load("dinov2", state("dinov2_plain"))
  assert done.missing == ["backbone.reg_token"]
  assert "backbone/reg_token" not in leaves
  assert "~ backbone.reg_token: this encoder was trained without registers, which" in str(done)
  expected, _ = load("dinov2", state("dinov2"))
  del expected["backbone/reg_token"]
  assert_same(leaves, expected)


# From the names of transformers 5.24 to those of files on the hub.
EARLIER = {
  "dinov2_huggingface": (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
  ),
  "dinov3_huggingface": ((r"^model\.layer\.", "layer."),),
}


@pytest.mark.parametrize("kind", EARLIER)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_earlier_names_of_hugging_face_and_those_within_another_model(tmp_path, kind, prefix):
  arrays = renamed(state(kind), *EARLIER[kind])
  assert arrays.keys() != state(kind).keys()
  arrays["rope_embeddings.inv_freq"] = np.ones(3, np.float32)
  if kind == "dinov2_huggingface":
    del arrays["rope_embeddings.inv_freq"]
  content = {prefix + name: array for name, array in arrays.items()}
  readers.write_pickle(tmp_path / "model.pkl", content)
  leaves, done = load(kind, readers.read_arrays(tmp_path / "model.pkl"))
  assert_same(leaves, load(kind, state(kind))[0])
  assert set(done.dropped) <= {"embeddings.mask_token", "rope_embeddings.inv_freq"}


def test_a_giant_of_hugging_face_in_its_earlier_names():
  arrays, kind = state("dinov2_giant_huggingface"), "dinov2_giant_huggingface"
  earlier = renamed(arrays, *EARLIER["dinov2_huggingface"], (r"\.down_proj\.", ".weights_out."))
  for name in [name for name in earlier if ".gate_proj." in name]:
    parts = earlier.pop(name), earlier.pop(name.replace("gate_proj", "up_proj"))
    earlier[name.replace("gate_proj", "weights_in")] = np.concatenate(parts)
  assert_same(load(kind, earlier)[0], load(kind, arrays)[0])


def test_a_dinov3_in_eomts_names():
  found = imagenet.recognise(state("dinov3_huggingface"))
  again = imagenet.recognise(found.arrays)
  assert again.title == "DINOv3 of EoMT"
  assert again.arrays.keys() == found.arrays.keys()
  leaves = load("dinov3", found.arrays)[0]
  assert_same(leaves, load("dinov3", state("dinov3_huggingface"))[0])
  official_arrays = imagenet.recognise_dinov3(state("dinov3"))
  assert official_arrays.keys() == found.arrays.keys()
  with pytest.raises(ValueError, match="the checkpoint is a DINOv2, and not a DINOv3 alone"):
    imagenet.recognise_dinov3(state("dinov2"))


def test_biases_that_timm_leaves_out_are_zero():
  leaves, done = load("dinov3", state("dinov3_timm"))
  assert done.changed == ["backbone.blocks.*.attention.*_proj.bias: zero, the file has none"]
  assert not leaves["backbone/blocks/1/attention/v_proj/bias"].any()


def test_biases_that_timm_keeps_apart():
  biases = {
    f"blocks.{block}.attn.{part}_bias": np.full(judge.DIM, value, np.float32)
    for block in range(judge.DEPTH)
    for part, value in (("q", 1 + block), ("v", 3 + block))
  }
  leaves, done = load("dinov3", state("dinov3_timm") | biases)
  assert done.changed == []
  assert (leaves["backbone/blocks/1/attention/q_proj/bias"] == 2).all()
  assert (leaves["backbone/blocks/1/attention/v_proj/bias"] == 4).all()


def test_a_bias_of_the_keys_is_refused_unless_it_is_masked():
  arrays = state("dinov3")
  assert np.split(arrays["blocks.0.attn.qkv.bias"], 3)[1].all()
  del arrays["blocks.1.attn.qkv.bias_mask"]
  with pytest.raises(ValueError, match=r"blocks.1.attn.qkv.bias has a bias of the keys, which a"):
    imagenet.recognise(arrays)


@pytest.mark.parametrize("kind", ["dinov3", "dinov3_huggingface"])
def test_gated_dinov3s_are_named(kind):
  block = "blocks.0." if kind == "dinov3" else "model.layer.0."
  gate = "mlp.w1.weight" if kind == "dinov3" else "mlp.gate_proj.weight"
  arrays = state(kind) | {block + gate: np.zeros((8, 4), np.float32)}
  with pytest.raises(ValueError, match=r"a DINOv3 with gated feed-forward .*; take S, B or L"):
    imagenet.recognise(arrays)


def test_half_precision_is_added_and_resized_in_single():
  arrays = {name: array.astype(np.float16) for name, array in state("dinov2").items()}
  leaves, _ = load("dinov2", arrays)
  expected, _ = load("dinov2", {name: a.astype(np.float32) for name, a in arrays.items()})
  assert_same(leaves, expected)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pos_embed": (1, 5 + 37 * 37, judge.DIM)}, "a position table of 1374 entries cannot become"),
    ({"blocks.1.ls2.gamma": None}, r"- backbone.blocks.1.ls2.gamma \(24,\): missing"),
    ({"blocks.2.ls2.gamma": (judge.DIM,)}, r"\+ backbone.blocks.2.ls2.gamma \(24,\): not part"),
  ],
)
def test_other_sizes_are_told(changes, message):
  arrays = state("dinov2")
  for name, shape in changes.items():
    arrays.pop(name, None)
    if shape:
      arrays[name] = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=message):
    load("dinov2", arrays)


def eomt(backbone):
  """The config of a small EoMT for crops of 128 px."""
  kind = backbone.partition("_")[0]
  config = ade20k.get_config(f"model=eomt,backbone={kind}_s")
  config.model.backbone, config.data.crop_size = backbone, 128
  return config


@pytest.mark.parametrize("registers", [True, False])
def test_a_file_becomes_weights_to_start_from(tmp_path, registers):
  config = eomt("dinov2_mini")
  params, _ = convert.abstract_weights(config, 7)
  backbone = jax.tree.map(lambda leaf: np.zeros(leaf.shape), {"backbone": params["backbone"]})
  arrays = official.to_official("eomt", backbone, {})
  shapes = {name.removeprefix("backbone."): array.shape for name, array in arrays.items()}
  del shapes["reg_token"]
  shapes |= {"pos_embed": (1, 1 + 37 * 37, 32), "patch_embed.proj.weight": (32, 3, 14, 14)}
  shapes |= {"mask_token": (1, 32)} | ({"register_tokens": (1, 4, 32)} if registers else {})
  readers.write_pickle(tmp_path / "dinov2.pth", judge.state(shapes))
  done = convert.convert(config, tmp_path / "dinov2.pth", tmp_path / "weights")
  assert done.missing == ([] if registers else ["backbone.reg_token"])
  saved, stats, info = checkpoint.load_weights(tmp_path / "weights")
  expected = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
  expected = {path: shape for path, shape in expected.items() if path.startswith("backbone/")}
  if not registers:
    del expected["backbone/reg_token"]
  assert {path: leaf.shape for path, leaf in trees.flatten(saved).items()} == expected
  assert (info["contents"], info["source"], stats) == ("backbone", "dinov2.pth", {})
