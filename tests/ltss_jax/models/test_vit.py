"""ViT against VitDet of `transformers`, golden and live, and its parts against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ltss_jax.models import bicubic, vit
from tests.golden import backbone_comparison, backbone_parameters, official_parameters
from tests.golden.backbone_comparison import assert_judged, judged, model, official_shapes
from tests.programs import GOLDEN


def test_features_and_gradients_equal_the_golden_ones_at_a_size_that_pads_windows():
  golden = np.load(GOLDEN / "backbones_mini.npz")
  judge = {k.removeprefix("vit_"): golden[k] for k in golden if k.startswith("vit_")}
  assert_judged(judged("vit", backbone_parameters.image("vit")), judge)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 48, 160)])
def test_features_and_gradients_equal_those_of_transformers(shape):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.golden import backbone_judges

  pixels = backbone_parameters.image("vit", shape)
  judge, names = backbone_judges.judge("vit", pixels)
  assert_judged(judged("vit", pixels), judge)
  assert names == official_shapes("vit_mini")


def test_vit_b_has_the_published_names_and_shapes():
  names = official_parameters.official_shapes("mask2former_vit_b_150_names.json")
  published = {f"backbone.{name}": shape for name, shape in official_shapes("vit_b").items()}
  assert published == {n: s for n, s in names.items() if n.startswith("backbone.")}


def test_position_and_patch_embedding_are_constants():
  params, stats = jax.eval_shape(model("vit_mini").init, jax.random.key(0))
  assert set(stats) == {"patch_embed", "pos_embed"}
  assert set(stats["patch_embed"]["proj"]) == {"kernel", "bias"}
  assert not {"patch_embed", "pos_embed"} & set(params)


def test_sin_cos_embedding_by_hand():
  embedding = vit.sin_cos_position_embedding(3, 8)[0].reshape(3, 3, 8)
  x, y = 2.0, 1.0
  parts = [f(p * w) for p in (x, y) for f in (np.sin, np.cos) for w in (1, 0.01)]
  np.testing.assert_allclose(embedding[1, 2], parts, rtol=1e-6)


@pytest.mark.parametrize("size", [(14, 14), (20, 32), (5, 9)])
def test_position_embedding_is_resized_as_torch_does(size):
  torch = pytest.importorskip("torch")
  embedding = np.random.default_rng(0).standard_normal((1, 14, 14, 4), dtype=np.float32)
  expected = torch.nn.functional.interpolate(
    torch.tensor(embedding.transpose(0, 3, 1, 2)), size, mode="bicubic", align_corners=False
  )
  rows, columns = (bicubic.matrix(14, n) for n in size)
  resized = np.einsum("bijc,hi,wj->bchw", embedding, rows, columns)
  np.testing.assert_allclose(resized, expected, atol=1e-5)  # torch's float32 coordinates


def test_transposed_convolution_is_flaxs():
  layer = vit.ConvTransposePatch(3, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (2, 3, 5, 3))
  flipped = layer.kernel[...][::-1, ::-1]  # lax's mirrors the kernel
  expected = jax.lax.conv_transpose(
    x, flipped, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(layer(x), expected, atol=1e-6)  # round-off of three products


def test_other_sizes_than_multiples_of_the_patch_are_refused():
  net = model("vit_mini")
  params, stats = backbone_comparison.parameters("vit_mini", net)
  with pytest.raises(ValueError, match="image of 64 x 72: pad it to multiples of the patch size"):
    net.apply(params, stats, jnp.zeros((1, 64, 72, 3)), train=False)


@pytest.mark.slow
def test_bfloat16_gives_float32_features_close_to_float32_ones():
  x = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))
  params, stats = backbone_comparison.parameters("vit_mini", model("vit_mini"))
  run = lambda net: jax.jit(lambda: net.apply(params, stats, x, train=False)[0])()  # noqa: E731
  exact, rounded = run(model("vit_mini")), run(model("vit_mini", dtype="bfloat16"))
  for name in exact:
    assert rounded[name].dtype == jnp.float32
    # Eight bits of mantissa in every product of four blocks, where features are of size 1.
    assert np.abs(exact[name] - rounded[name]).mean() < 0.02
