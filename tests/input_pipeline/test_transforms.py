"""Each transform alone: geometry, distribution of its parameters, and agreement with a judge."""

import cv2
import numpy as np
import pytest
from PIL import Image

from input_pipeline import color_jitter, transforms

IGNORE = 255
# With the fixed seeds below a correct transform passes always; a wrong one exceeds this by far.
CHI_SQUARE_QUANTILE = {15: 37.70, 35: 66.62}  # 0.999 quantile by degrees of freedom


def chi_square(counts, expected) -> float:
  counts = np.asarray(counts, np.float64)
  return float(((counts - expected) ** 2 / expected).sum())


def random_example(seed, height=40, width=56, num_classes=7, dtype=np.uint8):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
    "label": rng.integers(0, num_classes, (height, width)).astype(dtype),
    "file_name": f"{seed}.jpg",
  }


def encoded_in_blocks(height, width, block=8):
  """An example whose image is a fixed code of its label, constant in blocks."""
  rows, columns = np.ogrid[:height, :width]
  label = ((rows // block * 3 + columns // block * 5) % 11).astype(np.uint8)
  return {"image": code(label), "label": label, "file_name": "blocks.png"}


def code(label):
  return np.stack([label * 20, 255 - label * 20, label * 7 + 30], axis=-1).astype(np.uint8)


class TestResizeShortestEdge:
  def test_sizes_of_the_release(self):
    sizes = transforms.ResizeShortestEdge(512, 2048, 0.5, 2.0).sizes
    # Mask2Former's MIN_SIZE_TRAIN for crops of 512.
    assert sizes == [int(x * 0.1 * 512) for x in range(5, 21)]
    assert (sizes[0], sizes[5], sizes[-1], len(sizes)) == (256, 512, 1024, 16)

  def test_draws_uniformly(self):
    example = {"image": np.zeros((10, 12, 3), np.uint8), "label": np.zeros((10, 12), np.uint8)}
    transform = transforms.ResizeShortestEdge(40, 1000, 0.5, 2.0)
    rng = np.random.default_rng(0)
    drawn = [transform(example, rng)["label"].shape[0] for _ in range(1600)]
    counts = [drawn.count(size) for size in transform.sizes]
    assert sum(counts) == 1600
    assert chi_square(counts, 100) < CHI_SQUARE_QUANTILE[15]

  def test_image_is_pillow_bilinear_and_label_is_nearest(self):
    example = random_example(4, 50, 37, dtype=np.uint16)
    resized = transforms.ResizeShortestEdge(64, 90, 1.0, 1.0)(example, np.random.default_rng(0))
    height, width = 86, 64  # 50 * 64 / 37 = 86.49
    expected = Image.fromarray(example["image"]).resize((width, height), Image.BILINEAR)
    np.testing.assert_array_equal(resized["image"], np.asarray(expected))
    assert resized["label"].shape == (height, width)
    for i in range(height):
      for j in range(width):
        assert resized["label"][i, j] == example["label"][i * 50 // height, j * 37 // width]

  def test_image_and_label_do_not_drift_apart(self):
    # Whole factors: away from block borders the image must encode the label of its own pixel.
    example = encoded_in_blocks(64, 96, block=16)
    for factor in (0.5, 1.0, 2.0):
      transform = transforms.ResizeShortestEdge(64, 1000, factor, factor)
      resized = transform(example, np.random.default_rng(0))
      same = (resized["image"] == code(resized["label"])).all(axis=-1)
      # The bilinear kernel mixes at most the 2 pixels next to a border (at factor 2: 1 each side).
      border = np.zeros_like(same)
      for axis in (0, 1):
        edge = np.diff(resized["label"].astype(int), axis=axis) != 0
        for shift in (0, 1):
          window = [slice(None)] * 2
          window[axis] = slice(shift, shift + edge.shape[axis])
          border[tuple(window)] |= edge
      corner = cv2.dilate(border.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
      assert same[~corner].all()
      assert (~corner).mean() > 0.2

  @pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(0.5, 0.8, [50, 60, 70, 80]), (0.75, 1.04, [80, 90, 100]), (0.3, 0.3, [30])],
  )
  def test_factors_are_the_multiples_of_a_tenth_in_between(self, least, most, expected):
    sizes = transforms.ResizeShortestEdge(100, 1000, least, most).sizes
    np.testing.assert_allclose(sizes, expected, atol=1)  # cut, as the release does

  def test_impossible_sizes_name_the_fields(self):
    with pytest.raises(ValueError, match="min_factor=2.0, max_factor=0.5"):
      transforms.ResizeShortestEdge(64, 100, 2.0, 0.5)
    with pytest.raises(ValueError, match="base_size=1"):
      transforms.ResizeShortestEdge(1, 100, 0.5, 2.0)


class TestRandomCrop:
  def test_keeps_image_and_label_together(self):
    example = encoded_in_blocks(50, 70, block=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
      crop = transforms.RandomCrop(32, IGNORE, 1.0)(example, rng)
      assert crop["label"].shape == (32, 32)
      np.testing.assert_array_equal(crop["image"], code(crop["label"]))

  def test_takes_the_whole_extent_of_a_smaller_side(self):
    crop = transforms.RandomCrop(32, IGNORE, 1.0)(
      random_example(0, 20, 60), np.random.default_rng(0)
    )
    assert crop["image"].shape == (20, 32, 3)
    example = random_example(0, 20, 30)
    crop = transforms.RandomCrop(32, IGNORE, 1.0)(example, np.random.default_rng(0))
    np.testing.assert_array_equal(crop["image"], example["image"])

  def test_offsets_are_uniform_and_independent(self):
    label = np.arange(100, dtype=np.uint8).reshape(10, 10)
    example = {"image": np.zeros((10, 10, 3), np.uint8), "label": label}
    crop, rng = transforms.RandomCrop(5, IGNORE, 1.0), np.random.default_rng(1)
    corners = np.array([crop(example, rng)["label"][0, 0] for _ in range(3600)])
    counts = np.bincount(corners, minlength=100).reshape(10, 10)
    assert counts[:6, :6].sum() == 3600  # Both offsets lie in 0 .. 5, the last one included.
    assert chi_square(counts[:6, :6], 100) < CHI_SQUARE_QUANTILE[35]

  def test_category_limit_draws_again_and_leaves_the_ignored_out(self):
    label = np.zeros((8, 64), np.uint8)
    label[:, 32:] = 1
    label[:, :4] = IGNORE
    example = {"image": code(label), "label": label}
    limited, free = transforms.RandomCrop(8, IGNORE, 0.75), transforms.RandomCrop(8, IGNORE, 1.0)
    rng = np.random.default_rng(0)
    shares = []
    for transform in (limited, free):
      mixed = 0
      for _ in range(400):
        counts = np.bincount(transform(example, rng)["label"].ravel(), minlength=2)[:2]
        mixed += counts.max() < 0.75 * counts.sum()
      shares.append(mixed / 400)
    # 3 of 57 offsets are mixed enough: 5 % at one draw, 1 - (54 / 57) ** 10 = 42 % at ten.
    assert shares[1] == pytest.approx(3 / 57, abs=0.03)
    assert shares[0] == pytest.approx(1 - (54 / 57) ** 10, abs=0.08)

  def test_category_limit_gives_up_after_ten_draws(self):
    draws = []

    class CountingGenerator(np.random.Generator):
      def integers(self, *args, **kwargs):
        draws.append(args)
        return super().integers(*args, **kwargs)

    example = {"image": np.zeros((20, 20, 3), np.uint8), "label": np.zeros((20, 20), np.uint8)}
    rng = CountingGenerator(np.random.PCG64(0))
    crop = transforms.RandomCrop(8, IGNORE, 0.75)(example, rng)
    assert crop["label"].shape == (8, 8)
    assert len(draws) == 20


class TestRandomFlip:
  PAIRS = ((1, 2), (4, 5))

  def test_swaps_pairs_and_nothing_else(self):
    label = np.array([[0, 1, 2, 3], [4, 5, 6, IGNORE]], np.uint8)
    example = {"image": code(label), "label": label}
    flipped = transforms.RandomFlip(self.PAIRS, 1.0)(example, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped["label"], [[3, 1, 2, 0], [IGNORE, 6, 4, 5]])
    np.testing.assert_array_equal(flipped["image"], example["image"][:, ::-1])

  @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
  def test_is_an_involution(self, dtype):
    example = random_example(8, dtype=dtype)
    example["label"][0, 0] = np.iinfo(dtype).max
    flip, rng = transforms.RandomFlip(self.PAIRS, 1.0), np.random.default_rng(0)
    once = flip(example, rng)
    twice = flip(once, rng)
    assert once["label"].dtype == dtype
    assert not np.array_equal(once["label"], example["label"])
    np.testing.assert_array_equal(twice["image"], example["image"])
    np.testing.assert_array_equal(twice["label"], example["label"])

  def test_keeps_image_and_label_together(self):
    example = encoded_in_blocks(24, 33, block=4)
    flipped = transforms.RandomFlip((), 1.0)(example, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped["image"], code(flipped["label"]))

  def test_flips_half_the_time(self):
    example, rng = random_example(9, 4, 6), np.random.default_rng(0)
    flip = transforms.RandomFlip()
    flips = sum(flip(example, rng) is not example for _ in range(2000))
    assert abs(flips - 1000) < 3.3 * np.sqrt(500)  # 3.3 standard deviations


class TestPadTo:
  @pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
  def test_pads_right_and_bottom(self, dtype, ignore):
    example = random_example(10, 5, 7, dtype=dtype)
    padded = transforms.PadTo(9, ignore)(example)
    assert padded["image"].shape == (9, 9, 3)
    assert padded["label"].dtype == dtype
    np.testing.assert_array_equal(padded["image"][:5, :7], example["image"])
    np.testing.assert_array_equal(padded["label"][:5, :7], example["label"])
    assert (padded["image"][5:] == 128).all()
    assert (padded["image"][:, 7:] == 128).all()
    assert (padded["label"][5:] == ignore).all()
    assert (padded["label"][:, 7:] == ignore).all()

  def test_what_does_not_fit_names_the_sizes(self):
    with pytest.raises(ValueError, match="40 x 56 pixels does not fit into 50 x 50"):
      transforms.PadTo(50, IGNORE)(random_example(0))
    with pytest.raises(ValueError, match="ignore_label 65535 does not fit into .* uint8"):
      transforms.PadTo(64, 65535)(random_example(0))


def test_same_seed_gives_the_same_example_and_inputs_are_left_alone():
  chain = [
    transforms.ResizeShortestEdge(32, 200, 0.5, 2.0),
    transforms.RandomCrop(32, IGNORE, 1.0),
    color_jitter.ColorJitter(exact=True),
    transforms.RandomFlip(((1, 2),)),
    transforms.PadTo(32, IGNORE),
  ]
  example = random_example(11)
  for array in (example["image"], example["label"]):
    array.flags.writeable = False
  results = []
  for seed in (3, 3, 4):
    result, rng = example, np.random.default_rng(seed)
    for transform in chain:
      result = transform(result, rng)
    results.append(result)
  np.testing.assert_array_equal(results[0]["image"], results[1]["image"])
  np.testing.assert_array_equal(results[0]["label"], results[1]["label"])
  assert not np.array_equal(results[0]["image"], results[2]["image"])
  assert results[0]["file_name"] == "11.jpg"
