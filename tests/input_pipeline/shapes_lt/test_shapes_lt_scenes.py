"""Scenes are a function of (split, index) and show what they should."""

import numpy as np
import pytest

from input_pipeline.shapes_lt import classes, plan, scenes, shapes, textures


def test_same_scene_in_any_order_of_drawing():
  indices = [0, 7, 1199]
  forth = [scenes.draw_scene("train", index) for index in indices]
  back = [scenes.draw_scene("train", index) for index in reversed(indices)][::-1]
  for first, second in zip(forth, back, strict=True):
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)


def test_scenes_and_splits_differ():
  labels = [scenes.draw_scene("train", index).label for index in range(4)]
  labels += [scenes.draw_scene("val", index).label for index in range(4)]
  assert len({label.tobytes() for label in labels}) == 8


@pytest.mark.parametrize("index", range(12))
def test_scene_shows_the_planned_classes(index):
  scene = scenes.draw_scene("train", index)
  assert scene.image.shape == (*scene.label.shape, 3)
  assert scene.image.dtype == scene.label.dtype == np.uint8
  assert scene.label.shape in classes.IMAGE_SIZES
  shown = set(np.unique(scene.label).tolist()) - {classes.IGNORE_LABEL}
  assert shown == set(plan.image_classes("train")[index])


@pytest.mark.parametrize(("split", "index"), [("train", -1), ("train", 1200), ("val", 240)])
def test_index_outside_the_split_is_named(split, index):
  with pytest.raises(ValueError, match=f"image {index} of {split}"):
    scenes.draw_scene(split, index)


def test_arrows_are_mirror_images_of_each_other():
  right, left = (classes.CLASSES[c] for c in classes.FLIP_PAIRS[0])
  assert {left.name, right.name} == {"arrow_left", "arrow_right"}
  assert (left.size, left.turn, left.look) == (right.size, right.turn, right.look)
  left_mask = shapes.coverage(left.outline, (31.5, 31.5), 50, 0, (64, 64))
  right_mask = shapes.coverage(right.outline, (31.5, 31.5), 50, 0, (64, 64))
  inside = left_mask[:, ::-1] >= 128
  # Fixed-point corners round to one side: at most a pixel's width along the outline may differ.
  assert (inside != (right_mask >= 128)).sum() <= 0.02 * inside.sum()
  overlap = ((left_mask >= 128) & (right_mask >= 128)).sum() / inside.sum()
  assert overlap < 0.9  # The flip changes the shape, so the labels must swap.


@pytest.mark.parametrize("spec", classes.THINGS, ids=lambda spec: spec.name)
def test_outlines_fill_the_unit_disc(spec):
  points = np.concatenate([np.array(contour) for contour in spec.outline])
  assert np.hypot(points[:, 0], points[:, 1]).max() <= 1.3
  mask = shapes.coverage(spec.outline, (31.5, 31.5), 48, 0, (64, 64))
  # The anti-aliased fill draws its outline half a pixel too wide: a disc of 48 px has 6 % more.
  assert 0.2 <= (mask >= 128).sum() / (np.pi * 24**2) <= 1.1


def test_ring_has_a_hole():
  mask = shapes.coverage(shapes.RING, (31.5, 31.5), 50, 0, (64, 64))
  assert mask[32, 32] == 0
  assert mask[32, 13] == 255


@pytest.mark.parametrize("name", textures.TEXTURES)
@pytest.mark.parametrize("size", [(128, 192), (5, 9)])
def test_patterns_stay_between_their_two_tones(name, size):
  pattern = textures.TEXTURES[name](np.random.default_rng(0), *size)
  assert pattern.shape == size
  assert 0 <= pattern.min() < pattern.max() <= 1


def test_looks_name_patterns_that_exist():
  for spec in classes.CLASSES:
    assert set(spec.look.textures) <= set(textures.TEXTURES)
  assert len(set(classes.CLASS_NAMES)) == classes.NUM_CLASSES
