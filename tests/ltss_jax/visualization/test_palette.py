"""Colours of classes."""

import numpy as np

from ltss_jax.visualization import palette


def test_colors_differ_and_do_not_depend_on_the_number_of_classes():
  colors = palette.class_colors(847)
  assert colors.shape == (847, 3) and colors.dtype == np.uint8
  assert len(np.unique(colors, axis=0)) == 847
  np.testing.assert_array_equal(palette.class_colors(24), colors[:24])
  # Of a small data set's classes no two are alike to the eye.
  few = colors[:24].astype(int)
  distances = np.abs(few[:, None] - few[None]).sum(-1)[~np.eye(24, dtype=bool)]
  assert distances.min() > 20


def test_overlay_blends_by_opacity():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
  label = rng.integers(0, 300, (5, 7)).astype(np.uint16)
  colors = palette.class_colors(300)
  blended = palette.overlay(image, label, colors, opacity=0.25)
  np.testing.assert_allclose(blended, 0.75 * image + 0.25 * colors[label], atol=0.5001)  # rounding
  np.testing.assert_array_equal(palette.overlay(image, label, colors, opacity=0), image)
  np.testing.assert_array_equal(palette.overlay(image, label, colors, opacity=1), colors[label])
