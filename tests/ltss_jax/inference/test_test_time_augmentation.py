"""Views of an image: sizes by hand, mirrored scores, padding that changes nothing it should not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from input_pipeline.resize import resize_image, shortest_edge_size
from ltss_jax.inference import score_maps, test_time_augmentation


def random_images(*shape):
  return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def made(image, sizes, input_sizes=None, always_resize=False, **options):
  input_sizes = input_sizes or [image.shape[1:3]] * len(image)
  options = dataclasses.replace(test_time_augmentation.NO_AUGMENTATION, **options)
  return test_time_augmentation.make_views(
    options, image, input_sizes, sizes, always_resize=always_resize
  )


def test_by_default_there_is_the_image_itself():
  image = random_images(2, 20, 30, 3)
  (view,) = made(image, [(20, 30)] * 2)
  assert view.image is image and view.extent is None and view.interpolation is None
  (view,) = made(image, [(20, 30)] * 2, always_resize=True)
  assert [low.shape for low, _ in view.interpolation] == [(2, 128), (2, 128)]
  (view,) = made(image, [(20, 30), (129, 30)])
  assert view.extent is None and [low.shape for low, _ in view.interpolation] == [
    (2, 256),
    (2, 128),
  ]


def test_scales_and_their_mirrored_images_in_order():
  image = random_images(2, 20, 30, 3)
  made_views = made(image, [(40, 60)] * 2, scales=(10, 20, 40), max_size=45, flip=True)
  shapes = [view.image.shape[1:3] for view in made_views]
  # The longer side of the last, 60, is above the limit: 45 / 60 * 40 = 30.
  assert shapes == [(10, 15)] * 2 + [(20, 30)] * 2 + [(30, 45)] * 2
  for plain, mirrored in zip(made_views[::2], made_views[1::2], strict=True):
    np.testing.assert_array_equal(plain.image[1], resize_image(image[1], *plain.image.shape[1:3]))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, :, ::-1])
    assert plain.extent is None and mirrored.extent is None
  options = dataclasses.replace(test_time_augmentation.NO_AUGMENTATION, flip=True)
  assert [test_time_augmentation.is_mirrored(options, i) for i in range(3)] == [False, True, False]


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 600), st.integers(1, 900))
def test_one_scale_with_the_limits_of_the_input_is_the_input(height, width, scale, limit):
  size = shortest_edge_size(height, width, scale, max(scale, limit))
  again = shortest_edge_size(*size, scale, max(scale, limit))
  # Once rounded, a side may be off by one where the limit holds and the image is much longer.
  assert again == size or max(size) == max(scale, limit)


def test_halves_of_scaled_sides_go_up_or_to_the_even_number():
  image = random_images(1, 20, 33, 3)
  for even, width in ((False, 17), (True, 16)):
    (view,) = made(image, [(20, 33)], scales=(10,), max_size=99, half_even=even)
    assert view.image.shape == (1, 10, width, 3)


def test_images_of_several_sizes_fill_a_rounded_shape():
  image = np.zeros((2, 32, 32, 3), np.uint8)
  inside = [(20, 30), (32, 17)]
  for row, (height, width) in enumerate(inside):
    image[row, :height, :width] = random_images(height, width, 3)
  (view,) = made(image, [(20, 30), (32, 17)], inside, shape_multiple=16)
  np.testing.assert_array_equal(view.extent, inside)
  small, mirrored = made(image, inside, inside, scales=(10,), max_size=99, flip=True)
  np.testing.assert_array_equal(small.extent, [(10, 15), (19, 10)])
  assert small.image.shape == mirrored.image.shape == (2, 19, 15, 3)
  np.testing.assert_array_equal(mirrored.image[1, :, :10], small.image[1, :, :10][:, ::-1])
  assert not small.image[1, :, 10:].any() and not mirrored.image[1, :, 10:].any()


@pytest.mark.parametrize("width", [1, 5, 24, 60])
def test_mirrored_weights_read_the_scores_of_a_mirrored_image(width):
  scores = jnp.array(np.random.default_rng(0).normal(size=(6, 24, 3)), jnp.float32)
  image = random_images(1, 6, 24, 3)
  plain, mirrored = made(image, [(9, width)], flip=True)
  resized = [
    score_maps.resize(x, *[(low[0], weight[0]) for low, weight in view.interpolation])
    for view, x in ((plain, scores), (mirrored, scores[:, ::-1]))
  ]
  # Positions from the other end are rounded otherwise: weights differ by 24 * 2**-24.
  np.testing.assert_allclose(resized[1][:9, :width], resized[0][:9, :width], atol=1e-5)


def test_classes_of_a_mirrored_image_by_hand():
  options = dataclasses.replace(
    test_time_augmentation.NO_AUGMENTATION, flip=True, flip_pairs=((1, 3), (2, 4))
  )
  assert test_time_augmentation.class_order(options, 6) == [0, 3, 4, 1, 2, 5]
