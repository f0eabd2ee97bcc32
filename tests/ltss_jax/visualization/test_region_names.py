"""Where class names are written, and that they can be seen."""

import numpy as np
import pytest

from ltss_jax.visualization import region_names


def two_squares():
  """A label map of class 0 with two squares of class 2 and one pixel of class 1."""
  label = np.zeros((200, 300), np.uint8)
  label[20:80, 20:80] = 2
  label[100:180, 200:280] = 2
  label[5, 290] = 1
  return label


def test_regions_are_the_connected_parts_from_the_largest_on():
  regions = region_names.find_regions(two_squares(), 3)
  assert [region.train_id for region in regions] == [0, 2, 2]
  shares = [region.share for region in regions]
  assert shares[1:] == pytest.approx([80 * 80 / 60_000, 60 * 60 / 60_000])
  for region, middle in zip(regions[1:], [(240, 140), (50, 50)], strict=True):
    assert region.center == pytest.approx(middle, abs=2)


def test_the_point_of_a_name_lies_inside_its_region():
  label = np.ones((120, 120), np.int32)
  label[10:110, 10:110] = 0  # a ring, whose centre of mass is outside of it
  label[30:90, 30:90] = 1
  [ring] = [region for region in region_names.find_regions(label, 1)]
  x, y = (int(side) for side in ring.center)
  assert label[y, x] == 0


def test_large_label_maps_are_searched_at_a_smaller_size():
  label = np.zeros((3000, 2000), np.uint16)
  label[:, 1000:] = 300
  regions = region_names.find_regions(label, 400)
  assert [region.train_id for region in regions] == [0, 300]
  assert [round(region.share, 2) for region in regions] == [0.5, 0.5]
  assert label[int(regions[1].center[1]), int(regions[1].center[0])] == 300


def test_names_are_written_into_their_regions_alone():
  label = two_squares()
  picture = np.full((*label.shape, 3), 100, np.uint8)
  named = region_names.draw_names(picture, label, ("meadow", "dot", "roof"))
  assert (picture == 100).all() and named.dtype == np.uint8
  changed = (named != 100).any(-1)
  for square in (np.s_[20:80, 20:80], np.s_[100:180, 200:280]):
    assert 20 < changed[square].sum() < 1000
    assert {0, 255} <= set(np.unique(named[square]))  # white letters with a black edge
  assert changed[label == 0].sum() > 20


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4, 4), (30, 12)])
def test_a_picture_too_small_for_a_name_stays_as_it_is(size):
  picture = np.full((*size, 3), 7, np.uint8)
  named = region_names.draw_names(picture, np.zeros(size, np.uint8), ("a very long class name",))
  assert named.shape == picture.shape and (size == (1, 5000) or (named == 7).all())


def test_names_do_not_cover_each_other():
  label = np.arange(24).repeat(5)[None].repeat(120, 0)  # stripes narrower than their names
  picture = np.zeros((120, 120, 3), np.uint8)
  once = region_names.draw_names(picture, label, ["wwwwww"] * 24)
  few = region_names.draw_names(picture, label, ["wwwwww"] + ["x" * 60] * 23)
  assert (few > 0).any() and (once > 0).sum() < 8 * (few > 0).sum()
