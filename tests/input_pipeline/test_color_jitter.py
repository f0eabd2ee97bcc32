"""The colour jitter against the release's operations, written out, and by hand."""

import cv2
import numpy as np
import pytest

from input_pipeline import color_jitter

EXACT = color_jitter.ColorJitter(exact=True)


def example_of(seed):
  rng = np.random.default_rng(seed)
  return {"image": rng.integers(0, 256, (64, 80, 3), dtype=np.uint8), "label": np.zeros((64, 80))}


class SsdJitter:
  """Mask2Former's ColorAugSSDTransform, written out pixel by pixel of the same random draws."""

  def __init__(self, rng):
    self.rng = rng

  def __call__(self, rgb):
    image = rgb[:, :, [2, 1, 0]]
    image = self.brightness(image)
    if self.rng.integers(2):
      image = self.hue(self.saturation(self.contrast(image)))
    else:
      image = self.contrast(self.hue(self.saturation(image)))
    return image[:, :, [2, 1, 0]]

  def convert(self, image, alpha=1.0, beta=0.0):
    image = image.astype(np.float32) * alpha + beta
    return np.clip(image, 0, 255).astype(np.uint8)

  def brightness(self, image):
    if self.rng.integers(2):
      return self.convert(image, beta=self.rng.uniform(-32, 32))
    return image

  def contrast(self, image):
    if self.rng.integers(2):
      return self.convert(image, alpha=self.rng.uniform(0.5, 1.5))
    return image

  def saturation(self, image):
    if self.rng.integers(2):
      image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV)
      image[:, :, 1] = self.convert(image[:, :, 1], alpha=self.rng.uniform(0.5, 1.5))
      return cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    return image

  def hue(self, image):
    if self.rng.integers(2):
      image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV)
      image[:, :, 0] = (image[:, :, 0].astype(int) + self.rng.integers(-18, 19)) % 180
      return cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    return image


class TestColorJitter:
  def test_equals_the_literal_operations(self):
    example = example_of(6)
    changed = 0
    for seed in range(100):
      jittered = EXACT(example, np.random.default_rng(seed))
      expected = SsdJitter(np.random.default_rng(seed))(example["image"])
      np.testing.assert_array_equal(jittered["image"], expected)
      assert jittered["label"] is example["label"]
      changed += not np.array_equal(expected, example["image"])
    assert changed > 80  # Expected: 15 of 16.

  def test_inexact_shares_a_conversion_and_differs_by_little(self):
    example = example_of(6)  # All colours alike: the mean is that of the colour cube.
    differences = []
    for seed in range(100):
      rngs = [np.random.default_rng(seed) for _ in range(2)]
      exact, fast = (
        color_jitter.ColorJitter(exact=exact)(example, rng)["image"].astype(int)
        for exact, rng in zip((True, False), rngs, strict=True)
      )
      differences.append(np.abs(exact - fast).mean())
      assert rngs[0].integers(2**40) == rngs[1].integers(2**40)  # As many numbers were drawn.
    # Only where saturation and hue both apply, a quarter of the time.
    assert 10 < np.count_nonzero(differences) < 40
    assert max(differences) < 0.5

  def test_works_on_a_window_of_an_array_and_does_not_write_to_it(self):
    image = example_of(7)["image"]
    window, before = image[3:20, 5:30], image.copy()
    for seed in range(8):
      of_view = EXACT({"image": window}, np.random.default_rng(seed))
      of_copy = EXACT({"image": window.copy()}, np.random.default_rng(seed))
      np.testing.assert_array_equal(of_view["image"], of_copy["image"])
    np.testing.assert_array_equal(image, before)

  def test_truncates_by_hand(self):
    # 101 * 1.25 = 126.25, 3 * 1.25 = 3.75, 250 * 1.25 = 312.5 is clipped.
    np.testing.assert_array_equal(
      color_jitter._scale_table(1.25, 0.0)[[101, 3, 250]], [126, 3, 255]
    )
    np.testing.assert_array_equal(color_jitter._scale_table(1.0, -5.5)[[5, 6, 200]], [0, 0, 194])

  def test_arithmetic_equals_the_table_for_all_values(self):
    # 257 values, so that the vectorised loop and what is left over both see some.
    values = np.append(np.arange(256, dtype=np.uint8), np.uint8(7))
    values = np.stack([values] * 3, axis=-1)[None]  # [1, 257, 3]
    rng = np.random.default_rng(0)
    factors = [*rng.uniform(0.5, 1.5, 2000), 0.5, 0.75, 1.0, 1.25, 1.5]
    shifts = [*rng.uniform(-32, 32, 500), -32, -1e-9, 0, 1e-9, 1, 31.999999999]
    for alpha, beta in [
      *((f, 0.0) for f in factors),
      *((1.0, b) for b in shifts),
    ]:
      table = color_jitter._scale_table(alpha, beta)
      np.testing.assert_array_equal(color_jitter._scale(values, alpha, beta), table[values])

  def test_hue_turns_and_wraps_around(self):
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    hues = set()
    for seed in range(300):
      jitter = color_jitter.ColorJitter(
        exact=True, brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0)
      )
      image = jitter({"image": red}, np.random.default_rng(seed))["image"]
      hues.add(int(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, 0]))
    # Red has hue 0: shifts of -18 .. 18 give 162 .. 179 and 0 .. 18 (8-bit RGB loses at most 1).
    assert hues <= {*range(161, 180), *range(20)}
    assert len(hues) > 25

  def test_each_operation_applies_half_the_time_and_the_orders_too(self):
    gray = np.full((1, 1, 3), 100, np.uint8)  # No saturation: only brightness, contrast matter.
    values = []
    for seed in range(2000):
      image = EXACT({"image": gray}, np.random.default_rng(seed))["image"]
      values.append(int(image[0, 0, 0]))
    values = np.array(values)
    # Neither applies 1/4 of the time (a little more, where a shift is lost in the rounding).
    assert (values == 100).mean() == pytest.approx(0.26, abs=0.03)
    assert values.min() >= 34  # (100 - 32) / 2
    assert values.max() <= 198  # (100 + 32) * 1.5
    assert values.min() < 45
    assert values.max() > 180
