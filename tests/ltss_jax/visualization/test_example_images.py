"""Choosing the worst and best, keeping them in a file, painting them."""

import numpy as np
import pytest

from ltss_jax.visualization import example_images, palette


def make(name, miou, height=4, width=6):
  rng = np.random.default_rng(len(name))
  label = rng.integers(0, 3, (height, width)).astype(np.uint8)
  image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
  return example_images.Example(name, miou, image, label, label.astype(np.uint16))


def test_the_worst_and_the_best_are_kept_in_order():
  values = np.random.default_rng(0).permutation(20) / 20
  kept = example_images.worst_and_best(make(f"{v}.jpg", v) for v in [*values, np.nan])
  assert [e.miou for e in kept] == [0, 0.05, 0.1, 0.15, 0.8, 0.85, 0.9, 0.95]
  assert len(example_images.worst_and_best([make("a", 0.5), make("b", 0.2)])) == 2
  assert example_images.worst_and_best([]) == []


def test_large_pictures_are_made_small_with_whole_labels():
  (kept,) = example_images.worst_and_best([make("a", 0.5, height=600, width=1200)])
  assert kept.image.shape == (240, 480, 3)
  assert kept.label.shape == kept.prediction.shape == (240, 480)
  assert set(np.unique(kept.label)) == {0, 1, 2}


def test_files_come_back_as_they_were(tmp_path):
  examples = [make("é a.jpg", 0.25), make("b.jpg", 1.0, 7, 3)]
  path = tmp_path / "eval" / "5_examples.npz"
  example_images.save(examples, path)
  for ours, theirs in zip(example_images.load(path), examples, strict=True):
    assert (ours.file_name, ours.miou) == (theirs.file_name, theirs.miou)
    for name in ("image", "label", "prediction"):
      np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
  example_images.save([], path)
  assert example_images.load(path) == []
  with pytest.raises(FileNotFoundError):
    example_images.load(tmp_path / "none.npz")


def test_pixels_of_no_class_are_darkened():
  example = make("a.jpg", 0.5)
  label = example.label.copy()
  label[0, 0] = 255
  painted = example_images.paint(example.image, label, 3)
  np.testing.assert_allclose(painted[0, 0], 0.4 * example.image[0, 0], atol=0.51)  # rounding
  expected = palette.overlay(example.image, example.label, palette.class_colors(3))
  np.testing.assert_array_equal(painted[1:], expected[1:])
  assert example_images.side_by_side(example, 3).shape == (4, 18, 3)
