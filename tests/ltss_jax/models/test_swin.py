"""Swin against the `transformers` package, golden and live, and its parts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.models import swin
from tests.golden import backbone_comparison, backbone_parameters, official_parameters
from tests.golden.backbone_comparison import assert_judged, judged, model, official_shapes
from tests.programs import GOLDEN


def test_features_and_gradients_equal_the_golden_ones_at_an_odd_size():
  golden = np.load(GOLDEN / "backbones_mini.npz")
  judge = {k.removeprefix("swin_"): golden[k] for k in golden if k.startswith("swin_")}
  assert_judged(judged("swin", backbone_parameters.image("swin")), judge)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 33, 130)])
def test_features_and_gradients_equal_those_of_transformers(shape):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.golden import backbone_judges

  pixels = backbone_parameters.image("swin", shape)
  judge, names = backbone_judges.judge("swin", pixels)
  assert_judged(judged("swin", pixels), judge)
  shapes = official_shapes("swin_mini")
  assert names == {n: s for n, s in shapes.items() if not n.endswith("relative_position_index")}


def test_swin_t_has_the_published_names_and_shapes():
  names = official_parameters.official_shapes("mask2former_swin_t_150_names.json")
  published = {f"backbone.{name}": shape for name, shape in official_shapes("swin_t").items()}
  assert published == {n: s for n, s in names.items() if n.startswith("backbone.")}


@pytest.mark.parametrize(
  ("name", "channels", "blocks", "window"),
  [("swin_s", 96, 18, 7), ("swin_b", 128, 18, 12), ("swin_l", 192, 18, 12)],
)
def test_larger_ones_have_their_published_shapes(name, channels, blocks, window):
  shapes = official_shapes(name)
  table = f"layers.2.blocks.{blocks - 1}.attn.relative_position_bias_table"
  assert shapes[table] == ((2 * window - 1) ** 2, channels * 4 // 32)
  assert f"layers.2.blocks.{blocks}.norm1.weight" not in shapes
  assert shapes["layers.2.downsample.reduction.weight"] == (8 * channels, 16 * channels)
  assert shapes["norm3.weight"] == (8 * channels,)


def test_relative_position_index_by_hand():
  # Row of the table: 3 * (dy + 1) + dx + 1 for query minus key.
  expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
  np.testing.assert_array_equal(swin.relative_position_index(2), expected)


def test_shift_mask_separates_what_the_roll_brings_together():
  mask = swin.shift_mask(4, 6, window=2, shift=1)  # 2 x 3 windows
  assert mask.shape == (6, 1, 4, 4)
  np.testing.assert_array_equal(mask[0], np.zeros((1, 4, 4)))
  right, corner = mask[2, 0], mask[5, 0]
  columns = np.array([[0, 1, 0, 1]])
  np.testing.assert_array_equal(right, np.where(columns != columns.T, -100, 0))
  np.testing.assert_array_equal(corner, np.where(np.eye(4, dtype=bool), 0, -100))


@pytest.mark.slow
def test_bfloat16_gives_float32_features_close_to_float32_ones():
  x = jax.random.normal(jax.random.key(1), (1, 40, 64, 3))
  params, stats = backbone_comparison.parameters("swin_mini", model("swin_mini"))
  run = lambda net: jax.jit(lambda: net.apply(params, stats, x, train=False)[0])()  # noqa: E731
  exact, rounded = run(model("swin_mini")), run(model("swin_mini", dtype="bfloat16"))
  for name in exact:
    assert rounded[name].dtype == jnp.float32
    # Eight bits of mantissa in every product of six blocks, where features are of size 1.
    assert np.abs(exact[name] - rounded[name]).mean() < 0.02
