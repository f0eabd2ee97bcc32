"""What the colour jitter draws: one operation at a time, on one pixel that tells it."""

import cv2
import numpy as np
import pytest

from input_pipeline import color_jitter

# With the fixed seeds below a correct transform passes always; a wrong one exceeds this by far.
CHI_SQUARE_QUANTILE = {15: 37.70, 35: 66.62}  # 0.999 quantile by degrees of freedom


def chi_square(counts, expected) -> float:
  counts = np.asarray(counts, np.float64)
  return float(((counts - expected) ** 2 / expected).sum())


class TestColorJitterDistribution:
  OFF = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0}

  def draws(self, pixel, read, count=4000, **on):
    jitter = color_jitter.ColorJitter(exact=True, **(self.OFF | on))
    image = np.array([[pixel]], np.uint8)
    results = [
      jitter({"image": image}, np.random.default_rng(seed))["image"] for seed in range(count)
    ]
    values = np.array([read(result) for result in results])
    changed = np.array([not np.array_equal(result, image) for result in results])
    return values, changed

  def assert_uniform(self, values, low, high, bins=16):
    counts, _ = np.histogram(values, bins, (low, high))
    assert counts.sum() == len(values)
    assert chi_square(counts, len(values) / bins) < CHI_SQUARE_QUANTILE[15]

  def test_brightness_is_uniform_between_plus_and_minus_32(self):
    values, changed = self.draws((100, 100, 100), lambda x: int(x[0, 0, 0]), brightness=32.0)
    assert changed.mean() == pytest.approx(0.5, abs=0.03)
    # floor(shift) of the applied ones, in [-32, 32); a shift in [0, 1) cannot be told from none.
    shifts = values[changed] - 100
    assert (shifts.min(), shifts.max()) == (-32, 31)
    self.assert_uniform(shifts[shifts < 0] + 0.5, -32, 0)
    self.assert_uniform(shifts[(shifts > 0) & (shifts < 31)] + 0.5, 1, 31, bins=15)

  def test_contrast_is_uniform_from_half_to_one_and_a_half(self):
    values, changed = self.draws((160, 160, 160), lambda x: int(x[0, 0, 0]), contrast=(0.5, 1.5))
    assert changed.mean() == pytest.approx(0.5, abs=0.03)
    assert (values.min(), values.max()) == (80, 239)  # [80, 240), truncated
    self.assert_uniform(values[changed] + 0.5, 80, 240)

  def test_saturation_is_uniform_from_half_to_one_and_a_half(self):
    # V = 255 and S = 128: the factor is read off the least channel, 255 - S.
    values, changed = self.draws(
      (255, 127, 127), lambda x: 255 - int(x.min()), saturation=(0.5, 1.5)
    )
    assert changed.mean() == pytest.approx(0.5, abs=0.03)
    assert (values.min(), values.max()) == (64, 191)
    self.assert_uniform(values[changed] + 0.5, 64, 192)

  def test_hue_is_uniform_over_37_shifts(self):
    def hue(image):
      return (int(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, 0]) + 90) % 180 - 90

    values, changed = self.draws((255, 0, 0), hue, hue=18)
    assert changed.mean() == pytest.approx(0.5 * 36 / 37, abs=0.03)
    counts = np.bincount(values[changed] + 18, minlength=37)
    assert len(counts) == 37 and counts[18] == 0
    assert chi_square(np.delete(counts, 18), changed.sum() / 36) < CHI_SQUARE_QUANTILE[35]

  def test_contrast_comes_before_or_after_the_colours_with_equal_chance(self):
    # Contrast 1.5 clips this red to 255 before the saturation is halved, or scales it after.
    jitter = color_jitter.ColorJitter(True, 0.0, (1.5, 1.5), (0.5, 0.5), 0)
    image = np.array([[(200, 20, 20)]], np.uint8)
    seen = {}
    for seed in range(2000):
      pixel = tuple(jitter({"image": image}, np.random.default_rng(seed))["image"][0, 0].tolist())
      seen[pixel] = seen.get(pixel, 0) + 1
    both = {pixel: count for pixel, count in seen.items() if pixel[0] == 255 and pixel[1] > 40}
    # Both apply 1/4 of the time; first or last, each half of these.
    assert len(both) == 2 and sum(both.values()) == pytest.approx(500, abs=65)
    assert min(both.values()) == pytest.approx(250, abs=50)
