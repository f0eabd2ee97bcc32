import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from input_pipeline import class_stats, datasets, lt_sampling
from tests import programs

# What rounding may take from a coefficient that should not fall.
ROUNDING = 1e-12


@st.composite
def data_sets(draw):
  """(presence bool [N, C], pixel_share float32 [N, C]) with at least one class in an image."""
  shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 8)))
  presence = draw(hnp.arrays(bool, shape).filter(np.any))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  share = rng.random(shape, np.float32) * presence
  return presence, share / np.maximum(share.sum(axis=1, keepdims=True), 1)


def simulated(num_images=4000, num_classes=40, steepness=3.2, seed=0):
  """Independent classes, about 6 an image, with geometrically falling frequency."""
  rng = np.random.default_rng(seed)
  profile = np.exp(-steepness * np.arange(num_classes) / num_classes)
  presence = rng.random((num_images, num_classes)) < 6 * profile / profile.sum()
  share = rng.random(presence.shape, np.float32) * presence
  return presence, share / np.maximum(share.sum(axis=1, keepdims=True), 1)


def ginis(presence, share, kept, level):
  matrices = {"image": [presence], "pixel": [share], "both": [presence, share]}[level]
  return [class_stats.gini(matrix[kept].sum(axis=0, dtype=np.float64)) for matrix in matrices]


@given(data_sets(), st.sampled_from(lt_sampling.LEVELS), st.integers(0, 3), st.data())
def test_subset_has_the_size_keeps_every_class_and_is_repeatable(data_set, level, seed, data):
  presence, share = data_set
  # As many images as there are classes can always show them all.
  smallest = presence.any(axis=0).sum()
  target = data.draw(st.integers(min(smallest, len(presence)), len(presence)))
  kept = lt_sampling.greedy_subset(presence, share, target_images=target, level=level, seed=seed)
  assert len(kept) == target and kept.dtype == np.int64
  assert np.all(np.diff(kept) > 0) and kept[0] >= 0 and kept[-1] < len(presence)
  np.testing.assert_array_equal(presence[kept].any(axis=0), presence.any(axis=0))
  again = lt_sampling.greedy_subset(presence, share, target_images=target, level=level, seed=seed)
  np.testing.assert_array_equal(kept, again)


def _gini_without(presence, kept, image):
  others = kept.copy()
  others[image] = False
  return class_stats.gini(presence[others].sum(axis=0))


@given(data_sets(), st.integers(0, 3))
def test_gini_never_falls_while_an_image_allows_it(data_set, seed):
  presence, _ = data_set
  kept = np.ones(len(presence), bool)
  target = min(presence.any(axis=0).sum(), len(presence))
  for (taken,) in lt_sampling.removals(presence, target_images=target, seed=seed):  # one at a time
    counts = presence[kept].sum(axis=0)
    removable = [i for i in np.nonzero(kept)[0] if np.all(counts[presence[i]] > 1)]
    assert taken in removable
    before, after = class_stats.gini(counts), _gini_without(presence, kept, taken)
    # Where no two classes have equal counts, one image less leaves their order as it is, so that
    # the weights give the change exactly and a fall means that every other image lowers it too.
    if after < before - ROUNDING and len(set(counts[counts > 0])) == np.sum(counts > 0):
      assert all(_gini_without(presence, kept, image) < before for image in removable)
    kept[taken] = False


@pytest.mark.parametrize("level", lt_sampling.LEVELS)
def test_gini_rises_over_the_iterations_of_a_large_set(level):
  presence, share = simulated()
  kept = np.ones(len(presence), bool)
  trace = [ginis(presence, share, kept, level)]
  for taken in lt_sampling.removals(presence, share, target_images=1400, level=level):
    assert 1 <= len(taken) <= len(presence) // 400
    kept[taken] = False
    trace.append(ginis(presence, share, kept, level))
  assert np.diff(trace, axis=0).min() >= -ROUNDING
  # A random third of the images keeps the coefficient.
  assert min(np.subtract(trace[-1], trace[0])) > 0.1
  assert presence[kept].sum(axis=0).min() >= 1 and kept.sum() == 1400


def test_by_hand():
  # Images per class 4 3 2, weights 1 2 3 with the mean 16 / 9, G = (4 - 2 * 16 / 9) / 3 = 4 / 27.
  presence = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], bool)
  assert class_stats.gini(presence.sum(axis=0)) == pytest.approx(4 / 27)
  # {1, 2} gains 5 - 2 * 16 / 9 = 13 / 9, {2} gains 3 - 16 / 9 = 11 / 9, the others lose.
  assert lt_sampling.greedy_subset(presence, target_images=5).tolist() == [0, 1, 2, 3, 5]
  # Counts 4 2 1, mean weight 11 / 7. Image 5 holds the last of class 2 and stays; {0, 1} loses
  # 22 / 7 - 3, {0} loses 11 / 7 - 1: one of the images {0, 1} goes.
  kept = lt_sampling.greedy_subset(presence, target_images=4).tolist()
  assert kept in ([1, 2, 3, 5], [0, 1, 2, 5])


def test_seed_decides_between_equal_images():
  presence = np.tile(np.eye(3, dtype=bool), (10, 1))
  subsets = {
    tuple(lt_sampling.greedy_subset(presence, target_images=12, seed=seed)) for seed in range(8)
  }
  assert len(subsets) == 8


@pytest.mark.parametrize("level", lt_sampling.LEVELS)
@pytest.mark.parametrize("rise", [0.03, 0.08])
def test_target_gini_is_kept_down_to_the_number_of_images(level, rise):
  presence, share = simulated()
  start = min(ginis(presence, share, slice(None), level))
  kept = lt_sampling.greedy_subset(
    presence, share, target_images=1400, level=level, target_gini=start + rise
  )
  assert len(kept) == 1400
  # One image in 1400 moves the coefficient by about 1e-4; 0.005 is what passes without a warning.
  assert min(ginis(presence, share, kept, level)) == pytest.approx(start + rise, abs=0.002)


def test_target_gini_alone_stops_there():
  presence, _ = simulated()
  kept = lt_sampling.greedy_subset(presence, target_images=None, target_gini=0.6)
  value = class_stats.gini(presence[kept].sum(axis=0))
  assert 0.6 <= value < 0.602
  assert 1400 < len(kept) < 4000


@pytest.mark.parametrize("target_images", [1400, None])
def test_target_gini_out_of_reach_is_a_warning(target_images, caplog):
  presence, _ = simulated()
  kept = lt_sampling.greedy_subset(presence, target_images=target_images, target_gini=0.99)
  assert "not 0.990" in caplog.text
  assert presence[kept].any(axis=0).all()
  assert target_images in (None, len(kept))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"level": "images"}, "no level 'images'; the levels are image, pixel, both"),
    ({"presence": np.zeros((3, 2), bool)}, r"bool \[3, 2\] with 0 of them"),
    ({"presence": np.ones((3, 2))}, r"float64 \[3, 2\]"),
    ({"level": "pixel"}, r"'pixel' needs pixel_share of the shape of presence, \[3, 2\], got none"),
    ({"level": "both", "pixel_share": np.ones((3, 1))}, r"got \[3, 1\]"),
    ({"level": "both", "pixel_share": np.full((3, 2), np.nan)}, "must be finite"),
    ({"target_images": 4}, "target_images is 4; it must lie between 1 and the 3 images"),
    ({"target_images": 0}, "target_images is 0"),
    ({"target_images": None}, "Give target_images, target_gini or both"),
    ({"target_gini": 1.0}, "target_gini is 1.0"),
    ({"seed": -1}, "seed is -1"),
    ({"target_images": 1}, "2 images are left and each is the last .* ask for at least 2"),
  ],
)
def test_unusable_arguments(changes, message):
  presence = np.array([[1, 0], [0, 1], [0, 1]], bool)
  arguments = {"presence": presence, "pixel_share": None, "target_images": 2, **changes}
  with pytest.raises(ValueError, match=message):
    lt_sampling.greedy_subset(**arguments)


def test_class_matrices_hold_the_stored_counts():
  counts = class_stats.PixelCounts.from_rows(
    [(2, 5), (1, 4), (3, 3)], [([0, 2], [5, 2]), ([], []), ([1], [9])]
  )
  presence, share = lt_sampling.class_matrices(counts, 4)
  assert presence.tolist() == [[True, False, True, False], [False] * 4, [False, True, False, False]]
  assert share.dtype == np.float32
  np.testing.assert_array_equal(
    share, np.array([[0.5, 0, 0.2, 0], [0] * 4, [0, 1, 0, 0]], np.float32)
  )
  stats = class_stats.class_stats(counts, 4)
  np.testing.assert_array_equal(presence.sum(axis=0), stats.images_with_class)
  # float32 against float64 shares.
  np.testing.assert_allclose(share.sum(axis=0), stats.pixel_share_sum, rtol=1e-6)


def test_comparison_by_hand():
  # Ranks 2 3 1 against 3 2 1: 1 - 6 * (1 + 1) / (3 * 8).
  assert lt_sampling.comparison(np.array([5, 9, 1]), np.array([8, 6, 2])) == {
    "rank_correlation": pytest.approx(0.5),
    "total": 15,
    "official_total": 16,
    "total_difference": 7,
    "relative_difference": 7 / 16,
  }


def test_comparison_of_equal_counts_has_no_correlation():
  assert lt_sampling.comparison(np.ones(3), np.arange(3))["rank_correlation"] is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_scipys(pairs):
  counts, official = np.array(pairs).T
  value = lt_sampling.comparison(counts, official)["rank_correlation"]
  if np.ptp(counts) and np.ptp(official):
    # Another order of the same float64 sums.
    assert value == pytest.approx(scipy.stats.spearmanr(counts, official).statistic, abs=1e-12)
  else:
    assert value is None


def test_official_table_equals_itself():
  counts = datasets.find_spec("coco_stuff_lt").official_stats.images_with_class
  result = lt_sampling.comparison(counts, counts)
  assert result["rank_correlation"] == pytest.approx(1, abs=1e-12)
  assert result["total_difference"] == 0


def test_comparison_needs_the_same_classes():
  with pytest.raises(ValueError, match=r"\[2\], the official ones \[3\]"):
    lt_sampling.comparison(np.ones(2), np.ones(3))


@pytest.mark.slow
def test_bench_at_the_size_of_coco_stuff_meets_its_requirements():
  # 118,287 to 40,679 images: time, memory, coefficient, every class, the same images twice.
  done = programs.run("-m", "benchmarks.statistics")
  assert done.returncode == 0, done.stdout + done.stderr
  assert "sampler, level image: 118287 -> 40679 images" in done.stdout
