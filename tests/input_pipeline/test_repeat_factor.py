"""Repeat factors by hand, and the stream that they make."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

from input_pipeline import class_stats, datasets, repeat_factor, sampling

# Four images of 10 x 10 pixels. Class 0 is in three of them, class 1 in two, class 2 in one; the
# last image has no class at all.
COUNTS = class_stats.PixelCounts.from_rows(
  [(10, 10)] * 4,
  [
    (np.array([0]), np.array([100])),
    (np.array([0, 1]), np.array([50, 40])),
    (np.array([0, 1, 2]), np.array([80, 10, 4])),
    (np.array([], np.int32), np.array([], np.int64)),
  ],
)
STATS = class_stats.class_stats(COUNTS, 3)


def factors(threshold, level="image", reduce="max"):
  frequency = repeat_factor.class_frequency(STATS, level)
  class_factors = class_stats.class_repeat_factors(frequency, threshold)
  return repeat_factor.image_repeat_factors(COUNTS, class_factors, reduce)


class TestFactorsByHand:
  def test_frequencies(self):
    np.testing.assert_allclose(repeat_factor.class_frequency(STATS), [0.75, 0.5, 0.25])
    # 2.3, 0.5 and 0.04 whole images of pixels, over 4 images.
    pixel = repeat_factor.class_frequency(STATS, "pixel")
    np.testing.assert_allclose(pixel, [0.575, 0.125, 0.01])

  def test_image_level(self):
    # t = 1: r_c = sqrt(4/3), sqrt(2), 2.
    a, b, c = np.sqrt(4 / 3), np.sqrt(2), 2
    np.testing.assert_allclose(factors(threshold=1.0), [a, b, c, 1])
    mean = [a, (a + b) / 2, (a + b + c) / 3, 1]
    np.testing.assert_allclose(factors(threshold=1.0, reduce="mean"), mean)
    total = [a, a + b, a + b + c, 1]
    np.testing.assert_allclose(factors(threshold=1.0, reduce="sum"), total)

  def test_pixel_level(self):
    # t = 0.25: class 0 is more frequent and has 1; sqrt(0.25 / 0.125), sqrt(0.25 / 0.01) = 5.
    got = factors(threshold=0.25, level="pixel")
    np.testing.assert_allclose(got, [1, np.sqrt(2), 5, 1])

  def test_classes_above_the_threshold_are_not_repeated(self):
    for reduce in ("max", "mean"):
      np.testing.assert_array_equal(factors(threshold=0.1, reduce=reduce), np.ones(4))

  def test_images_without_classes_alone(self):
    empty = class_stats.PixelCounts.from_rows([(2, 2)] * 2, [(np.array([]), np.array([]))] * 2)
    got = repeat_factor.image_repeat_factors(empty, np.full(3, 9.0), "sum")
    np.testing.assert_array_equal(got, [1, 1])

  @given(st.integers(0, 2**32 - 1), st.sampled_from(repeat_factor.REDUCTIONS))
  def test_equal_a_loop_over_images(self, seed, reduce):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(8):
      ids = np.flatnonzero(rng.random(6) < rng.choice([0.0, 0.5]))
      rows.append((ids, np.ones(len(ids), int)))
    counts = class_stats.PixelCounts.from_rows([(3, 3)] * 8, rows)
    class_factors = 1 + rng.random(6)
    operation = {"max": np.max, "mean": np.mean, "sum": np.sum}[reduce]
    expected = [operation(class_factors[ids]) if len(ids) else 1 for ids, _ in rows]
    got = repeat_factor.image_repeat_factors(counts, class_factors, reduce)
    np.testing.assert_allclose(got, expected, rtol=1e-12)  # another order of summation

  def test_default_thresholds(self):
    published = {"mhp_v2_lt": 0.0012, "coco_stuff_lt": 0.0012, "ade20k_full": 0.0003}
    for name, threshold in published.items():
      official = datasets.find_spec(name).official_stats
      assert repeat_factor.default_threshold(official) == threshold
    # Three classes: a is the entry int(0.2 * 3) = 0 of the ascending counts, that is 1 of 4 images.
    assert repeat_factor.default_threshold(STATS) == 0.25
    # Nothing is published for the pixel level: 0.04 images of 4.
    published = dataclasses.replace(STATS, repeat_threshold=0.0012)
    assert repeat_factor.default_threshold(published, "pixel") == pytest.approx(0.01)

  def test_wrong_arguments(self):
    with pytest.raises(ValueError, match="level is 'pixels'; it must be one of image, pixel"):
      repeat_factor.class_frequency(STATS, "pixels")
    with pytest.raises(ValueError, match="reduce is 'min'"):
      repeat_factor.image_repeat_factors(COUNTS, np.ones(3), "min")
    with pytest.raises(ValueError, match="list class 2, but there are 2 classes"):
      repeat_factor.image_repeat_factors(COUNTS, np.ones(2))


class TestStream:
  FACTORS = np.array([1.0, 1.25, 2.0, 2.7, 1.0, 3.5])

  def test_expected_repeats_over_1000_epochs(self):
    epochs = 1000
    shuffle = sampling.RepeatFactorShuffle(self.FACTORS, 7)
    orders = [shuffle.epoch_order(epoch) for epoch in range(epochs)]
    repeats = np.stack([np.bincount(order, minlength=6) for order in orders])  # [epochs, 6]
    whole = np.floor(self.FACTORS)
    assert set(np.unique(repeats - whole)) <= {0, 1}
    fraction = self.FACTORS - whole
    np.testing.assert_array_equal(repeats[:, fraction == 0], np.tile([1, 2, 1], (epochs, 1)))
    # 3.5 standard deviations of the mean of 1,000 roundings.
    error = np.abs(repeats.mean(axis=0) - self.FACTORS)
    assert (error <= 3.5 * np.sqrt(fraction * (1 - fraction) / epochs)).all()
    # Rounded anew, independently, for every record and epoch.
    up = (repeats > whole)[:, fraction > 0].astype(float)
    assert np.abs(np.corrcoef(up.T) - np.eye(3)).max() < 3.5 / np.sqrt(epochs)
    assert abs(np.corrcoef(up[1:, 1], up[:-1, 1])[0, 1]) < 3.5 / np.sqrt(epochs)

  def test_positions_run_through_the_epochs_without_a_gap(self):
    shuffle = sampling.RepeatFactorShuffle(self.FACTORS, 3)
    expected = np.concatenate([shuffle.epoch_order(epoch) for epoch in range(20)])
    fresh = sampling.RepeatFactorShuffle(self.FACTORS, 3)
    got = [fresh.record_index(position) for position in range(len(expected))]
    np.testing.assert_array_equal(got, expected)

  def test_epochs_are_uniformly_shuffled(self):
    shuffle = sampling.RepeatFactorShuffle(np.array([2.0, 1, 1, 1]), 0)
    counts = np.zeros((5, 4))
    for epoch in range(2000):
      counts[np.arange(5), shuffle.epoch_order(epoch)] += 1
    expected = 2000 * np.array([2, 1, 1, 1]) / 5
    # 12 degrees of freedom at the most; 32.9 is their 0.999 quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 32.9

  @given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.lists(st.integers(0, 5000), max_size=5))
  def test_any_order_of_access_gives_the_same_records(self, seed, num_records, positions):
    given_factors = 1 + 2 * np.random.default_rng(seed).random(num_records)
    shuffle = sampling.RepeatFactorShuffle(given_factors, seed)
    forward = {p: shuffle.record_index(p) for p in sorted(positions)}
    for position in positions:
      fresh = sampling.RepeatFactorShuffle(given_factors, seed)
      assert fresh.record_index(position) == forward[position]

  def test_counting_many_epochs_at_once_changes_nothing(self, monkeypatch):
    def located():
      shuffle = sampling.RepeatFactorShuffle(self.FACTORS, 5)
      return [shuffle.locate(position) for position in range(0, 400, 7)]

    expected = located()
    monkeypatch.setattr(sampling, "_COUNTED_AT_A_TIME", 1)
    assert located() == expected

  def test_factors_of_one_make_epochs_of_every_record_once(self):
    shuffle = sampling.RepeatFactorShuffle(np.ones(9), 2)
    assert shuffle.locate(100) == (11, 1)
    assert sorted(shuffle.epoch_order(4)) == list(range(9))

  def test_far_ahead_needs_no_walk_through_the_stream(self):
    # COCO-Stuff's 900,000 batches of 16: about 100 epochs of 118,287 images.
    shuffle = sampling.RepeatFactorShuffle(np.full(118_287, 1.25), 0)
    epoch, offset = shuffle.locate(900_000 * 16)
    assert 95 < epoch < 99 and 0 <= offset < 150_000
    assert len(shuffle._orders) == 0

  def test_is_the_same_after_pickling(self):
    shuffle = sampling.RepeatFactorShuffle(self.FACTORS, 11)
    expected = [shuffle.record_index(position) for position in range(50)]
    copy = pickle.loads(pickle.dumps(shuffle))
    assert [copy.record_index(position) for position in range(50)] == expected

  def test_seeds_differ(self):
    orders = {
      tuple(sampling.RepeatFactorShuffle(np.full(20, 1.5), seed).epoch_order(epoch))
      for seed in range(3)
      for epoch in range(3)
    }
    assert len(orders) == 9

  @pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
  def test_wrong_factors_name_the_record(self, wrong):
    with pytest.raises(ValueError, match=f"factor of record 1 is {wrong}"):
      sampling.RepeatFactorShuffle(np.array([1.0, wrong]), 0)
    with pytest.raises(ValueError, match="holds 0 records"):
      sampling.RepeatFactorShuffle(np.ones(0), 0)
    with pytest.raises(ValueError, match="seed is -1"):
      sampling.RepeatFactorShuffle(np.ones(1), -1)
