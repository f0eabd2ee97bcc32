"""Sizes and resampling against hand-worked cases, their definition and Pillow."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from input_pipeline import resize


@pytest.mark.parametrize(
  ("height", "width", "size", "max_size", "expected"),
  [
    (480, 640, 512, 1333, (512, 683)),  # 682.67 rounds up.
    (640, 480, 512, 1333, (683, 512)),
    (100, 400, 512, 1333, (333, 1333)),  # 512 x 2048, shrunk by 1333 / 2048: 333.25.
    (3, 2, 3, 100, (5, 3)),  # 4.5 rounds up, not to the even number.
    (500, 500, 512, 512, (512, 512)),
    (1, 1000, 64, 100, (1, 100)),  # A side does not vanish.
  ],
)
def test_output_size_by_hand(height, width, size, max_size, expected):
  assert resize.shortest_edge_size(height, width, size, max_size) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2600))
def test_output_size_properties(height, width, size, max_size):
  new_height, new_width = resize.shortest_edge_size(height, width, size, max_size)
  assert max(new_height, new_width) <= max(max_size, 1)
  assert min(new_height, new_width) <= size
  if max(new_height, new_width) < max_size:
    assert min(new_height, new_width) == size
  assert (new_height <= new_width) if height <= width else (new_height >= new_width)


def test_nearest_by_hand():
  label = np.array([[0, 1, 2, 3, 4]], np.uint8)
  # floor(i * 5 / 3) = 0, 1, 3; Pillow would sample the centres 0, 2, 4.
  np.testing.assert_array_equal(resize.resize_label(label, 1, 3), [[0, 1, 3]])
  np.testing.assert_array_equal(resize.resize_label(label, 2, 7), [[0, 0, 1, 2, 2, 3, 4]] * 2)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_nearest_equals_its_definition(height, width, new_height, new_width):
  label = np.arange(height * width, dtype=np.uint16).reshape(height, width)
  rows = [i * height // new_height for i in range(new_height)]
  columns = [j * width // new_width for j in range(new_width)]
  np.testing.assert_array_equal(
    resize.resize_label(label, new_height, new_width), label[np.ix_(rows, columns)]
  )


@pytest.mark.parametrize(
  ("height", "width", "size", "expected"),
  [
    (1024, 1365, 512, (512, 682)),  # 682.5 goes to the even number,
    (1024, 1367, 512, (512, 684)),  # 683.5 too.
    (1365, 1024, 512, (682, 512)),
    (480, 640, 512, (512, 683)),  # 682.67
  ],
)
def test_halves_to_the_even_number_by_hand(height, width, size, expected):
  assert resize.eval_size(height, width, size, 2048, half_even=True) == expected
  assert resize.eval_size(height, width, 0, 2048, half_even=True) == (height, width)


def test_halves_go_up_unless_asked_otherwise():
  assert resize.eval_size(1024, 1365, 512, 2048) == (512, 683)
  # 512 x 1025.2, shrunk to 1001 px: 499.9 x 1001; no half.
  assert resize.eval_size(256, 513, 512, 1001, half_even=True) == (500, 1001)
  assert resize.eval_size(400, 1001, 400, 1000, half_even=True) == (400, 1000)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([128, 224, 512, 518, 640]))
def test_halves_to_the_even_number_as_in_eomts_release(height, width, side):
  factor = max(side / height, side / width)
  expected = round(height * factor), round(width * factor)
  assert resize.eval_size(height, width, side, 4000 * 640, half_even=True) == expected


def test_rounds_once_per_side():
  assert resize.eval_size(427, 640, 512, 1333) == (512, 767)  # 767.4
  assert resize.eval_size(200, 900, 512, 1333) == (296, 1333)  # 296.2
  assert resize.eval_size(333, 77, 0, 100) == (333, 77)  # native


def resize_for_eval(image, min_size, max_size):
  return resize.resize_image(image, *resize.eval_size(*image.shape[:2], min_size, max_size))


def test_test_images_are_resized_by_pillow_bilinear():
  image = np.random.default_rng(5).integers(0, 256, (30, 45, 3), dtype=np.uint8)
  resized = resize_for_eval(image, 20, 1000)
  expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.BILINEAR))
  np.testing.assert_array_equal(resized, expected)
  assert resize_for_eval(image, 0, 10) is image
