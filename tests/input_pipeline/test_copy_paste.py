"""Copy-Paste by hand, and that image, label and class list stay together."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from input_pipeline import copy_paste, pipeline
from tests import recipes

IGNORE = 255
# Destination and source of 6 x 6 pixels.
DESTINATION = np.array(
  [
    [0, 0, 0, 1, 1, 1],
    [0, 0, 0, 1, 1, 1],
    [0, 0, 0, 1, 1, 1],
    [2, 2, 2, 2, 2, 2],
    [2, 2, 2, 2, 2, 2],
    [255, 255, 255, 255, 255, 255],
  ],
  np.uint8,
)
SOURCE = np.array(
  [
    [4, 4, 4, 4, 4, 4],
    [4, 3, 3, 4, 4, 4],
    [4, 3, 3, 4, 4, 4],
    [4, 4, 4, 4, 5, 4],
    [4, 4, 4, 4, 5, 5],
    [255, 255, 3, 255, 255, 255],
  ],
  np.uint8,
)


def colored(label, offset):
  """An example whose image tells label and picture of every pixel."""
  image = np.stack([label, np.full_like(label, offset), 255 - label], axis=-1).astype(np.uint8)
  return {"image": image, "label": label, "file_name": f"{offset}.jpg"}


def paste(example, source, seed=0, **options):
  transform = recipes.copy_paste(ignore_label=IGNORE, **options)
  return transform(example, source, np.random.default_rng(seed))


class TestByHand:
  def test_rare(self):
    result = paste(colored(DESTINATION, 10), colored(SOURCE, 20), mode="rare", rare_classes=(3, 5))
    expected = np.array(
      [
        [0, 0, 0, 1, 1, 1],
        [0, 3, 3, 1, 1, 1],
        [0, 3, 3, 1, 1, 1],
        [2, 2, 2, 2, 5, 2],
        [2, 2, 2, 2, 5, 5],
        [255, 255, 3, 255, 255, 255],
      ]
    )
    np.testing.assert_array_equal(result["label"], expected)
    pasted = np.isin(expected, (3, 5))
    np.testing.assert_array_equal(result["image"][pasted], colored(SOURCE, 20)["image"][pasted])
    kept = colored(DESTINATION, 10)["image"][~pasted]
    np.testing.assert_array_equal(result["image"][~pasted], kept)
    assert result["file_name"] == "10.jpg"
    classes, dropped = pipeline.present_classes(result["label"], 7, np.ones(6))
    np.testing.assert_array_equal(classes, [0, 1, 2, 3, 5, -1, -1])
    assert dropped == 0

  def test_a_class_that_is_covered_entirely_vanishes(self):
    destination = np.where(SOURCE == 3, 1, 0).astype(np.uint8)
    result = paste(colored(destination, 1), colored(SOURCE, 2), mode="rare", rare_classes=(3,))
    classes, _ = pipeline.present_classes(result["label"], 4, np.ones(6))
    np.testing.assert_array_equal(classes, [0, 3, -1, -1])

  def test_only_the_given_classes(self):
    options = {"mode": "rare", "rare_classes": (3, 5), "classes": (4, 5)}
    result = paste(colored(DESTINATION, 1), colored(SOURCE, 2), **options)
    assert set(np.unique(result["label"])) == {0, 1, 2, 5, IGNORE}

  def test_flip_within_the_box_swaps_the_pairs(self):
    # The box of class 5 is columns 4 and 5 of rows 3 and 4; 5 becomes 4 where it is mirrored.
    options = {"mode": "rare", "rare_classes": (5,), "flip": True, "flip_pairs": ((4, 5),)}
    flipped = {(3, 5): 4, (4, 4): 4, (4, 5): 4, (3, 4): 2}
    as_it_was = {(3, 4): 5, (4, 4): 5, (4, 5): 5, (3, 5): 2}
    seen = set()
    for seed in range(40):
      label = paste(colored(DESTINATION, 1), colored(SOURCE, 2), seed, **options)["label"]
      expected = DESTINATION.copy()
      is_flipped = label[3, 4] == 2
      for place, value in (flipped if is_flipped else as_it_was).items():
        expected[place] = value
      np.testing.assert_array_equal(label, expected)
      seen.add(bool(is_flipped))
    assert seen == {True, False}

  def test_scale_around_the_centre(self):
    source = np.full((12, 12), 4, np.uint8)
    source[4:8, 2:6] = 3
    options = {"mode": "rare", "rare_classes": (3,), "min_scale": 2.0, "max_scale": 2.0}
    result = paste(colored(np.zeros((12, 12), np.uint8), 1), colored(source, 2), **options)
    expected = np.zeros((12, 12), np.uint8)
    expected[2:10, 0:8] = 3
    np.testing.assert_array_equal(result["label"], expected)
    np.testing.assert_array_equal(result["image"], pasted_colors(expected))
    # Twice as large again: what lies outside is cut off.
    options |= {"min_scale": 4.0, "max_scale": 4.0}
    result = paste(colored(np.zeros((12, 12), np.uint8), 1), colored(source, 2), **options)
    expected[:, :] = 0
    expected[0:12, 0:12] = 3
    np.testing.assert_array_equal(result["label"], expected)


def pasted_colors(label):
  return np.where((label == 3)[..., None], colored(label, 2)["image"], colored(label, 1)["image"])


class TestRandom:
  def test_number_and_choice_of_classes_are_uniform(self):
    transform, rng = recipes.copy_paste(IGNORE), np.random.default_rng(0)
    label = np.array([[1, 2, 3, 4, 255]], np.uint8)
    sizes, chosen = np.zeros(5), np.zeros(5)
    for _ in range(4000):
      classes = transform.choose(label, rng)
      assert len(set(classes)) == len(classes)
      sizes[len(classes)] += 1
      chosen[classes] += 1
    # n is 0, 1, 2 or 3 of the 4 classes; never all of them, and never the ignore label.
    assert sizes[4] == 0 and chosen[0] == 0
    assert ((sizes[:4] - 1000) ** 2 / 1000).sum() < 16.3  # 0.999 quantile, 3 degrees of freedom
    assert np.abs(chosen[1:] / 4000 - 1.5 / 4).max() < 3.5 * np.sqrt(0.375 * 0.625 / 4000)

  def test_a_source_with_one_class_or_none_pastes_nothing(self):
    for value in (3, IGNORE):
      example, source = colored(DESTINATION, 1), colored(np.full((6, 6), value, np.uint8), 2)
      for seed in range(10):
        assert paste(example, source, seed) is example

  def test_at_most_99_classes(self):
    label = np.arange(200, dtype=np.uint16).reshape(10, 20)
    transform, rng = recipes.copy_paste(65535), np.random.default_rng(0)
    sizes = {len(transform.choose(label, rng)) for _ in range(2000)}
    assert sizes == set(range(100))


def random_pair(seed, dtype):
  rng = np.random.default_rng(seed)
  ignore = np.iinfo(dtype).max
  values = np.array([0, 1, 2, 3, 4, 5, ignore], dtype)
  labels = [rng.choice(values[: rng.integers(1, 8)], (9, 11)) for _ in range(2)]
  examples = [
    {"image": colored_16(label, offset), "label": label}
    for label, offset in zip(labels, (1, 2), strict=True)
  ]
  return examples, ignore


def colored_16(label, offset):
  label = label.astype(np.int64)
  image = np.stack([label % 256, np.broadcast_to(offset, label.shape), label // 256], axis=-1)
  return image.astype(np.uint8)


@given(
  st.integers(0, 2**32 - 1),
  st.sampled_from([np.uint8, np.uint16]),
  st.sampled_from(copy_paste.MODES),
  st.sampled_from([(), (0, 2, 4)]),
)
def test_label_image_and_class_list_agree(seed, dtype, mode, classes):
  (example, source), ignore = random_pair(seed, dtype)
  before = [array.copy() for e in (example, source) for array in (e["image"], e["label"])]
  transform = recipes.copy_paste(ignore, mode, rare_classes=(1, 2, 5), classes=classes)
  result = transform(example, source, np.random.default_rng(seed))
  again = transform(example, source, np.random.default_rng(seed))
  image, label = result["image"], result["label"]
  np.testing.assert_array_equal(image, again["image"])
  np.testing.assert_array_equal(label, again["label"])
  after = [array for e in (example, source) for array in (e["image"], e["label"])]
  for one, other in zip(before, after, strict=True):
    np.testing.assert_array_equal(one, other)
  assert label.dtype == dtype
  # Every pixel, label and colour together, is that of one of the two.
  pasted = image[..., 1] == 2
  np.testing.assert_array_equal(image, colored_16(label, np.where(pasted, 2, 1)))
  np.testing.assert_array_equal(label, np.where(pasted, source["label"], example["label"]))
  # The regions of whole classes are pasted, and no other pixel of the source.
  regions = np.unique(source["label"][pasted])
  np.testing.assert_array_equal(pasted, np.isin(source["label"], regions))
  assert ignore not in regions
  assert not classes or set(regions) <= set(classes)
  if mode == "rare":
    wanted = {1, 2, 5} & set(np.unique(source["label"])) & set(classes or range(6))
    assert set(regions) == wanted
  listed, dropped = pipeline.present_classes(label, 6, np.ones(6))
  np.testing.assert_array_equal(listed[listed >= 0], np.setdiff1d(np.unique(label), [ignore]))
  assert dropped == 0


@given(st.integers(0, 2**32 - 1))
def test_a_jittered_region_keeps_label_and_image_together(seed):
  # One colour a class: whatever is resized or mirrored, a pixel of a region has its class's colour.
  rng = np.random.default_rng(seed)
  source = np.full((20, 24), 9, np.uint8)
  top, left = rng.integers(0, 12, 2)
  source[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = 3
  options = {"mode": "rare", "rare_classes": (3,), "classes": (3,), "flip": True}
  options |= {"min_scale": 0.3, "max_scale": 3.0}
  destination = np.zeros((20, 24), np.uint8)
  result = paste(colored(destination, 1), colored(source, 2), seed, **options)
  pasted = result["label"] == 3
  assert set(np.unique(result["label"])) <= {0, 3} and pasted.any()
  # The region is a full rectangle, so that no colour from outside of it can be mixed in.
  np.testing.assert_array_equal(result["image"], pasted_colors(result["label"]))


def test_wrong_arguments():
  with pytest.raises(ValueError, match="mode is 'all'; it must be one of random, rare"):
    recipes.copy_paste(IGNORE, "all")
  with pytest.raises(ValueError, match="min_scale is 2.0 and max_scale 1.0"):
    recipes.copy_paste(IGNORE, min_scale=2.0)
  with pytest.raises(ValueError, match=r"one size, got \(6, 6\) and \(2, 3\)"):
    paste(colored(DESTINATION, 1), colored(np.zeros((2, 3), np.uint8), 2))
