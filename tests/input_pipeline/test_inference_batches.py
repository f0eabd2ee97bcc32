"""Images that are grouped, read ahead and put into batches, without any files."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st

from input_pipeline import inference_batches, resize
from input_pipeline.inference_batches import PlannedBatch, SizedImage
from input_pipeline.prediction_files import ImageError

SIZES = [(3, 4), (4, 3), (2, 2), (3, 4), (3, 4), (4, 4)]
IMAGES = [SizedImage(size, size, name) for size, name in zip(SIZES, "abcdef", strict=True)]


def pixels(name):
  return np.full((*SIZES["abcdef".index(name)], 3), ord(name), np.uint8)


def load(image):
  """Any but "b" is read."""
  if image.content == "b":
    raise ImageError("b is no image")
  return pixels(image.content), image.content.upper()


def test_groups_by_hand():
  plan = inference_batches.plan_batches(IMAGES, rows=lambda group: min(2, len(group)))
  a, b, c, d, e, f = IMAGES
  assert plan == [
    PlannedBatch((4, 4), 1, [f]),
    PlannedBatch((3, 4), 2, [a, d]),
    PlannedBatch((3, 4), 2, [e]),
    PlannedBatch((4, 3), 1, [b]),
    PlannedBatch((2, 2), 1, [c]),
  ]
  [rounded] = inference_batches.plan_batches(IMAGES, rows=lambda group: 8, shape_multiple=4)
  assert rounded == PlannedBatch((4, 4), 8, IMAGES)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_every_image_is_in_one_batch_that_holds_it(sizes, multiple):
  images = [SizedImage(size, size, i) for i, size in enumerate(sizes)]
  plan = inference_batches.plan_batches(images, rows=lambda group: 3, shape_multiple=multiple)
  assert sorted(image.content for batch in plan for image in batch.images) == list(
    range(len(sizes))
  )
  for batch in plan:
    assert 1 <= len(batch.images) <= batch.rows == 3
    for image in batch.images:
      assert all(0 <= s - i < multiple for s, i in zip(batch.shape, image.input_size, strict=True))


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("ahead", [1, 2])
def test_what_cannot_be_read_is_reported_and_becomes_a_dummy(monkeypatch, cores, ahead):
  monkeypatch.setattr(os, "cpu_count", lambda: cores)
  plan = inference_batches.plan_batches(IMAGES, rows=lambda group: 4, shape_multiple=4)
  failed = []
  batches = inference_batches.load_batches(
    plan, load, ahead=ahead, failed=lambda name, error: failed.append((name, str(error)))
  )
  first, second = batches
  assert failed == [("b", "b is no image")]
  assert [row and row.content for row in first.rows] == ["A", None, "C", "D"]
  assert [row and row.content for row in second.rows] == ["E", "F", None, None]
  assert first.input_sizes == [(3, 4), (4, 4), (2, 2), (3, 4)]
  expected = np.zeros((4, 4, 4, 3), np.uint8)
  expected[0, :3], expected[2, :2, :2], expected[3, :3] = map(ord, "acd")
  np.testing.assert_array_equal(first.image, expected)
  assert first.image.dtype == np.uint8


def test_a_batch_without_images_is_left_out_and_without_a_reporter_nothing_goes_on():
  plan = inference_batches.plan_batches(IMAGES[1:3], rows=lambda group: 2)
  failed = []
  [batch] = inference_batches.load_batches(
    plan, load, ahead=1, failed=lambda *_: failed.append(True)
  )
  assert failed == [True] and batch.rows[0].content == "C"
  with pytest.raises(ImageError, match="b is no image"):
    list(inference_batches.load_batches(plan, load, ahead=1))


@pytest.mark.parametrize("ahead", [1, 2])
def test_so_many_batches_are_read_ahead_and_leaving_early_stops_the_threads(ahead):
  images = [SizedImage((1, 1), (1, 1), i) for i in range(9)]
  plan, read = inference_batches.plan_batches(images, rows=lambda group: 1), []

  def noted(image):
    read.append(image.content)
    return np.zeros((1, 1, 3), np.uint8), image.content

  before = threading.active_count()
  batches = inference_batches.load_batches(plan, noted, ahead=ahead)
  assert next(batches).rows[0].content == 0
  assert threading.active_count() > before
  assert set(read) <= set(range(ahead + 1))
  batches.close()
  assert threading.active_count() == before and len(read) <= ahead + 1


def test_a_single_image_is_a_batch_of_its_own():
  image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
  batch = inference_batches.single_batch(image, 10, 99)
  np.testing.assert_array_equal(batch.image[0], resize.resize_image(image, 10, 16))
  [row] = batch.rows
  assert row.size == (20, 31) and row.content is image and batch.input_sizes == [(10, 16)]
  image = np.zeros((20, 33, 3), np.uint8)  # 16.5
  shapes = [
    inference_batches.single_batch(image, 10, 99, half_even=even).image.shape
    for even in (False, True)
  ]
  assert shapes == [(1, 10, 17, 3), (1, 10, 16, 3)]
