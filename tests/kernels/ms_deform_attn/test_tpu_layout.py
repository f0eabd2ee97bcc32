"""Bands, tiles and the ranges of tiles that blocks of queries visit."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kernels.ms_deform_attn import tpu_layout

sizes = st.tuples(st.integers(1, 70), st.integers(1, 300))


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 10**7))
def test_bands_cover_every_row_once_and_fit(shapes, budget):
  def tile_bytes(positions):
    return 4 * 128 * positions

  calls = tpu_layout.deal(shapes, tile_bytes, budget)
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
  band = tpu_layout.Band(0, first, height, width)
  rng = np.random.default_rng(seed)
  y = rng.uniform(-3, first + height + 3, (2, 1, 1, 2, 8)).astype(np.float32)
  y[rng.random(y.shape) < 0.2] = -2
  ranges = np.asarray(tpu_layout.tile_ranges([band], jnp.asarray(y), 4))
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
  samples = tpu_layout.Samples(
    jnp.zeros((1, 12, 1, 4)),
    ((3, 4),),
    jnp.asarray([[5.0, 0.5], [0.5, -4], [np.nan, 0.5], [0.5, np.inf]]).reshape(1, 4, 1, 1, 1, 2),
    jnp.ones((1, 4, 1, 1, 1)),
  )
  start, stop = np.asarray(samples.ranges([tpu_layout.Band(0, 0, 3, 4)])).ravel()
  assert stop <= start


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (64, 64), (67, 91), (5, 1000)])
def test_tiles_hold_whole_rows(shape):
  band = tpu_layout.Band(0, 0, *shape)
  assert band.columns % 8 == 0 and 0 <= band.columns - band.width < 8
  assert 0 <= band.tiles * band.rows - band.height < band.rows
  assert band.rows == 1 or band.rows * band.columns <= tpu_layout.TILE
