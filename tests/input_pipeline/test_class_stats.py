import functools
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from input_pipeline import class_stats, datasets

# Long-tailed data set -> published (Gini, sizes of rare/common/frequent) by images and by pixels.
PUBLISHED = {
  "ade20k_full": ((0.865, (160, 175, 512)), (0.934, (169, 169, 509))),
  "coco_stuff_lt": ((0.669, (34, 34, 103)), (0.773, (34, 34, 103))),
  "mhp_v2_lt": ((0.701, (11, 12, 36)), (0.909, (11, 12, 36))),
}
# Positive counts of any size, so that scaling them never underflows.
COUNTS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 10**6)).filter(np.any)


def published_counts(name, level):
  stats = datasets.find_spec(name).official_stats
  return (stats.images_with_class, stats.pixel_share_sum)[level]


@pytest.mark.parametrize("level", [0, 1], ids=["images", "pixels"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_groups_have_published_sizes(name, level):
  groups = class_stats.frequency_groups(published_counts(name, level))
  assert tuple(np.bincount(groups, minlength=3)) == PUBLISHED[name][level][1]


@pytest.mark.parametrize("level", [0, 1], ids=["images", "pixels"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_gini_is_published_value(name, level):
  value = class_stats.gini(published_counts(name, level))
  # Published with three digits: five of the six values are truncated, COCO-Stuff-LT's pixel-level
  # 0.77292 is rounded.
  assert PUBLISHED[name][level][0] in (np.floor(value * 1000) / 1000, round(value, 3))


def test_gini_by_hand():
  assert class_stats.gini(np.array([3, 3, 3, 3])) == 0
  # One class has everything: (4 + 1 - 2 * 1) / 4.
  assert class_stats.gini(np.array([0, 5, 0, 0])) == 0.75
  # Ascending 1 2 5, cumulative 1 3 8: (3 + 1 - 2 * 12 / 8) / 3.
  assert class_stats.gini(np.array([5, 1, 2])) == pytest.approx(1 / 3, rel=1e-15)


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_gini_without_counts_is_an_error(counts):
  with pytest.raises(ValueError, match="positive count"):
    class_stats.gini(np.array(counts))


@settings(deadline=None, max_examples=50)
@given(COUNTS, st.integers(2, 1000), st.randoms())
def test_gini_is_bounded_and_ignores_scale_and_order(counts, scale, random):
  value = class_stats.gini(counts)
  # Rounding of float64 sums of at most 60 terms.
  assert -1e-12 <= value <= 1 - 1 / len(counts) + 1e-12
  shuffled = counts.tolist()
  random.shuffle(shuffled)
  assert class_stats.gini(np.array(shuffled) * scale) == pytest.approx(value, abs=1e-12)


def test_groups_by_hand():
  counts = np.array([50, 4, 1, 9, 9, 3, 100, 2, 30, 7])
  # Ascending 1 2 3 4 7 9 9 30 50 100: a = v[2] = 3 and b = v[4] = 7.
  assert class_stats.group_borders(counts) == (3, 7)
  assert class_stats.frequency_groups(counts).tolist() == [2, 1, 0, 2, 2, 1, 2, 0, 2, 2]
  assert class_stats.frequency_threshold(counts, num_images=60) == 0.05


def test_groups_of_equal_counts_are_all_frequent():
  assert class_stats.frequency_groups(np.full(7, 4)).tolist() == [2] * 7


@settings(deadline=None, max_examples=50)
@given(COUNTS)
def test_groups_grow_with_the_count(counts):
  groups = class_stats.frequency_groups(counts)
  assert np.all(np.diff(groups[np.argsort(counts, kind="stable")]) >= 0)
  # At most a fifth of the classes lies below the entry a of the sorted counts.
  assert np.sum(groups == 0) <= 0.2 * len(counts)
  assert np.sum(groups <= 1) <= 0.4 * len(counts)


def test_count_pixels_by_hand():
  label = np.array([[0, 0, 3], [255, 3, 3]], np.uint8)
  class_ids, pixels = class_stats.count_pixels(label, num_classes=4, ignore_label=255)
  assert class_ids.tolist() == [0, 3] and class_ids.dtype == np.int32
  assert pixels.tolist() == [2, 3] and pixels.dtype == np.int64


def test_count_pixels_of_ignored_image_is_empty():
  class_ids, pixels = class_stats.count_pixels(np.full((2, 2), 65535, np.uint16), 847, 65535)
  assert len(class_ids) == len(pixels) == 0


@pytest.mark.parametrize(("value", "ignore_label"), [(4, 255), (254, 255), (255, 65535)])
def test_count_pixels_rejects_value_outside_table(value, ignore_label):
  label = np.zeros((3, 3), np.uint8)
  label[1, 1:] = value
  with pytest.raises(ValueError, match=rf"value {value} \(2 pixels.*4 classes.*{ignore_label}"):
    class_stats.count_pixels(label, 4, ignore_label)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 6)))
def test_count_pixels_counts_every_pixel(label):
  class_ids, pixels = class_stats.count_pixels(label, num_classes=6, ignore_label=6)
  assert {i: n for i, n in zip(class_ids, pixels, strict=True)} == {
    i: np.sum(label == i) for i in range(6) if np.any(label == i)
  }


def test_stats_keep_ignored_pixels_in_the_denominator(tmp_path):
  labels = [np.array([[0, 1], [1, 9]]), np.array([[1, 1, 9, 9, 9]]), np.array([[9, 9]])]
  counts = class_stats.PixelCounts.from_rows(
    [label.shape for label in labels], [class_stats.count_pixels(x, 3, 9) for x in labels]
  )
  counts.save(tmp_path / "counts.npz")
  counts = class_stats.PixelCounts.load(tmp_path / "counts.npz")
  stats = class_stats.class_stats(counts, num_classes=3)
  assert stats.num_images == len(counts) == 3
  assert stats.images_with_class.tolist() == [1, 2, 0]
  assert stats.pixel_share_sum.tolist() == [1 / 4, 2 / 4 + 2 / 5, 0]
  assert [array.tolist() for array in counts.row(1)] == [[1], [2]]
  assert [array.tolist() for array in counts.row(2)] == [[], []]
  assert [array.dtype for array in vars(counts).values()] == [
    np.int32,
    np.int32,
    np.int64,
    np.int32,
    np.int64,
  ]


def test_counts_of_no_images():
  stats = class_stats.class_stats(class_stats.PixelCounts.from_rows([], []), num_classes=2)
  assert stats.num_images == 0
  assert stats.images_with_class.tolist() == [0, 0]


def test_from_rows_needs_one_size_a_row():
  with pytest.raises(ValueError, match="1 image sizes but 0 rows"):
    class_stats.PixelCounts.from_rows([(2, 2)], [])


def test_missing_counts_name_the_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="train_pixel_counts.npz is missing"):
    class_stats.PixelCounts.load(tmp_path / "train_pixel_counts.npz")


def test_stats_of_coco_stuff_size_take_under_two_seconds():
  num_images, num_classes, classes_per_image = 118_287, 171, 8
  rng = np.random.default_rng(0)
  counts = class_stats.PixelCounts(
    height=np.full(num_images, 480, np.int32),
    width=np.full(num_images, 640, np.int32),
    row_offsets=np.arange(num_images + 1, dtype=np.int64) * classes_per_image,
    class_ids=rng.integers(0, num_classes, num_images * classes_per_image, np.int32),
    pixels=rng.integers(1, 38_400, num_images * classes_per_image, np.int64),
  )
  start = time.perf_counter()
  stats = class_stats.class_stats(counts, num_classes)
  assert time.perf_counter() - start < 2  # 30 ms on one core of 2024
  assert stats.images_with_class.sum() == num_images * classes_per_image


def test_class_repeat_factors_by_hand():
  frequency = np.array([0.04, 0.01, 0.0025, 1.0, 0.0])
  # sqrt(0.01 / f), at least 1; a class without an image has 1.
  np.testing.assert_allclose(
    class_stats.class_repeat_factors(frequency, 0.01), [1, 1, 2, 1, 1], rtol=1e-15
  )


def test_queries_per_class_by_hand():
  frequency = np.array([1.0, 0.04, 0.02, 0.01, 0.0025, 0.0])
  # 2 sqrt(0.01 / f): 0.2, 1, 1.41, 2, 4.
  numbers = class_stats.queries_per_class(frequency, 0.01, scale=2)
  assert numbers.tolist() == [1, 1, 2, 2, 4, 1] and numbers.dtype == np.int64
  assert class_stats.queries_per_class(frequency, 0.01, scale=1).tolist() == [1, 1, 1, 1, 2, 1]


# Data set -> threshold, mean numbers of rare/common/frequent classes (as published), how many
# classes have more than one query, the largest number.
QUERIES = {
  "ade20k_full": (0.0003, (4.12, 2.27, 1.27), 475, 6),
  "coco_stuff_lt": (0.0012, (4.32, 2.03, 1.07), 75, 10),
  "mhp_v2_lt": (0.0024, (3.82, 2.08, 1.11), 27, 9),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries_per_class_are_the_published_ones(name):
  threshold, means, above_one, largest = QUERIES[name]
  stats = datasets.find_spec(name).official_stats
  numbers = class_stats.queries_per_class(
    stats.images_with_class / stats.num_images, threshold, scale=2
  )
  groups = class_stats.frequency_groups(stats.images_with_class)
  found = [numbers[groups == group].mean() for group in range(3)]
  # Half of the last published digit, inclusive: ADE20K-Full's rare classes have 4.125.
  assert found == pytest.approx(means, abs=0.00501)
  assert (np.sum(numbers > 1), numbers.max()) == (above_one, largest)


def test_histogram_of_queries_per_class_of_ade20k_full():
  stats = datasets.find_spec("ade20k_full").official_stats
  numbers = class_stats.queries_per_class(
    stats.images_with_class / stats.num_images, 0.0003, scale=2
  )
  values, sizes = np.unique(numbers, return_counts=True)
  assert dict(zip(values.tolist(), sizes.tolist(), strict=True)) == {
    1: 372,
    2: 268,
    3: 99,
    4: 72,
    6: 36,
  }


@pytest.mark.parametrize(
  "function",
  [class_stats.class_repeat_factors, functools.partial(class_stats.queries_per_class, scale=2)],
  ids=["class_repeat_factors", "queries_per_class"],
)
@pytest.mark.parametrize(
  ("frequency", "threshold", "message"),
  [
    ([0.1], -0.1, "threshold is -0.1"),
    ([0.1], np.nan, "threshold is nan"),
    ([0.1, -1], 0.1, "negative or infinite value or a NaN"),
    ([np.nan], 0.1, "negative or infinite value or a NaN"),
  ],
)
def test_factors_of_unusable_frequencies(function, frequency, threshold, message):
  with pytest.raises(ValueError, match=message):
    function(np.array(frequency), threshold)


def test_negative_scale_is_an_error():
  with pytest.raises(ValueError, match="scale is -1"):
    class_stats.queries_per_class(np.ones(1), 0.1, scale=-1)
