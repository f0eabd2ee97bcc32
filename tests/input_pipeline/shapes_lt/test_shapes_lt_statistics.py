"""The class frequencies of the real data set lie where its description says."""

import numpy as np
import pytest

from input_pipeline import class_stats, prepared
from input_pipeline.shapes_lt import classes, plan


@pytest.fixture(name="stats", scope="module")
def _stats(prepared_directory):
  return {
    split: class_stats.class_stats(
      prepared.read_pixel_counts(prepared_directory, split), classes.NUM_CLASSES
    )
    for split in plan.SPLITS
  }


def test_frequencies_follow_a_long_tail(stats):
  train = stats["train"]
  assert train.num_images == 1200
  assert stats["val"].num_images == 240
  assert 20 <= classes.NUM_CLASSES <= 25
  assert 0.62 <= class_stats.gini(train.images_with_class) <= 0.72
  assert 0.73 <= class_stats.gini(train.pixel_share_sum) <= 0.85
  few = (train.images_with_class >= 4) & (train.images_with_class <= 20)
  assert few.sum() >= 4
  assert train.images_with_class.min() >= 4


@pytest.mark.parametrize("split", plan.SPLITS)
def test_every_class_is_in_as_many_images_as_planned(stats, split):
  np.testing.assert_array_equal(stats[split].images_with_class, plan.images_with_class(split))


def test_val_measures_every_class(stats):
  assert stats["val"].images_with_class.min() >= 8
  # A thing of which only a few pixels show would measure nothing: 300 px are 17 x 17.
  pixels = stats["val"].pixel_share_sum / stats["val"].images_with_class * 160 * 160
  assert pixels.min() >= 300


def test_every_group_holds_classes_at_both_levels(stats):
  for counts in (stats["train"].images_with_class, stats["train"].pixel_share_sum):
    sizes = np.bincount(class_stats.frequency_groups(counts), minlength=3)
    assert sizes.tolist() == [4, 5, 15]


def test_a_few_percent_of_the_pixels_are_ignored(prepared_directory):
  counts = prepared.read_pixel_counts(prepared_directory, "train")
  area = (counts.height.astype(np.int64) * counts.width).sum()
  assert 0.01 <= 1 - counts.pixels.sum() / area <= 0.05


def test_sizes_are_the_few_of_the_table(prepared_directory):
  for split in plan.SPLITS:
    counts = prepared.read_pixel_counts(prepared_directory, split)
    sizes = set(zip(counts.height.tolist(), counts.width.tolist(), strict=True))
    assert sizes == set(classes.IMAGE_SIZES)


def test_every_image_has_stuff():
  for split in plan.SPLITS:
    for members in plan.image_classes(split):
      stuff = [c for c in members if c < len(classes.STUFF)]
      assert 1 <= len(stuff) <= plan.MAX_STUFF
      assert len(members) - len(stuff) <= plan.MAX_THINGS


def test_unknown_split_is_named():
  with pytest.raises(ValueError, match="'test'.*train, val"):
    plan.num_images("test")
