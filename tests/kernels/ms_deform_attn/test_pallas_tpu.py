"""What is particular to the TPU kernels: bands of maps, and which tiles are visited."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kernels.ms_deform_attn import pallas_tpu

SHAPES = ((5, 7), (20, 30))


def test_maps_that_do_not_fit_are_cut_into_bands(monkeypatch):
  """Several calls give what one gives, but for the order of additions."""
  rng = np.random.default_rng(0)
  value = rng.normal(size=(1, 635, 2, 16)).astype(np.float32)
  locations = rng.uniform(-0.2, 1.2, (1, 150, 2, 2, 3, 2)).astype(np.float32)
  weights = rng.normal(size=(1, 150, 2, 2, 3)).astype(np.float32)
  cotangent = rng.normal(size=(1, 150, 32)).astype(np.float32)

  def run():
    @jax.jit
    def both(value, *arrays):
      output = pallas_tpu.forward(value, SHAPES, *arrays[:2], interpret=True)
      return output, pallas_tpu.backward(value, SHAPES, *arrays, interpret=True)

    return jax.tree.leaves(both(value, locations, weights, cotangent))

  whole = run()
  monkeypatch.setattr(pallas_tpu, "RESIDENT_BYTES", 60_000)
  smallest = 16 * 4  # bytes of a position in either pass
  assert len(pallas_tpu.deal(SHAPES, lambda k: smallest * k, 60_000)) > 1
  for one, several in zip(whole, run(), strict=True):
    np.testing.assert_allclose(several, one, atol=2e-6 * np.abs(one).max())


sizes = st.tuples(st.integers(1, 70), st.integers(1, 300))


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 10**7))
def test_bands_cover_every_row_once_and_fit(shapes, budget):
  def tile_bytes(positions):
    return 4 * 128 * positions

  calls = pallas_tpu.deal(shapes, tile_bytes, budget)
  rows = [
    (band.level, row)
    for band in itertools.chain(*calls)
    for row in range(band.first, band.first + band.height)
  ]
  assert rows == [(level, row) for level, (h, _) in enumerate(shapes) for row in range(h)]
  for bands in calls:
    held = sum(2 * band.tiles * tile_bytes(band.rows * band.columns) for band in bands)
    assert held <= budget or (len(bands) == 1 and bands[0].tiles == 1)


@settings(max_examples=50)
@given(st.integers(0, 10**6), sizes, st.sampled_from([0, 3]))
def test_visited_tiles_hold_every_touched_row(seed, shape, first):
  """The range of a block is the smallest that holds the rows floor(y) and floor(y) + 1."""
  height, width = shape
  band = pallas_tpu.Band(0, first, height, width)
  rng = np.random.default_rng(seed)
  y = rng.uniform(-3, first + height + 3, (2, 1, 1, 2, 8)).astype(np.float32)
  y[rng.random(y.shape) < 0.2] = -2
  ranges = np.asarray(pallas_tpu.tile_ranges([band], jnp.asarray(y), 4))
  assert ranges.shape == (2, 1, 2, 1, 2)
  for image, step in itertools.product(range(2), range(2)):
    upper = np.floor(y[image, 0, 0, :, 4 * step : 4 * step + 4]).ravel()
    rows = np.concatenate([upper, upper + 1]) - first
    touched = rows[(rows >= 0) & (rows < height)] // band.rows
    start, stop = ranges[image, 0, step, 0]
    if touched.size:
      assert (start, stop) == (touched.min(), touched.max() + 1)
    else:
      assert stop <= start


def test_points_off_the_map_visit_nothing():
  samples = pallas_tpu.Samples(
    jnp.zeros((1, 12, 1, 4)),
    ((3, 4),),
    jnp.asarray([[5.0, 0.5], [0.5, -4], [np.nan, 0.5], [0.5, np.inf]]).reshape(1, 4, 1, 1, 1, 2),
    jnp.ones((1, 4, 1, 1, 1)),
  )
  start, stop = np.asarray(samples.ranges([pallas_tpu.Band(0, 0, 3, 4)])).ravel()
  assert stop <= start


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (64, 64), (67, 91), (5, 1000)])
def test_tiles_hold_whole_rows(shape):
  band = pallas_tpu.Band(0, 0, *shape)
  assert band.columns % 8 == 0 and 0 <= band.columns - band.width < 8
  assert 0 <= band.tiles * band.rows - band.height < band.rows
  assert band.rows == 1 or band.rows * band.columns <= pallas_tpu.TILE
