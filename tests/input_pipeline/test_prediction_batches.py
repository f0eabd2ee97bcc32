"""Every readable image once, in batches of one input shape."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import prediction_batches, resize


@pytest.fixture(name="paths")
def _paths(tmp_path):
  """Images of two input shapes for min_size=20, one of them in two sizes, and broken ones."""
  rng = np.random.default_rng(0)
  for i, (height, width) in enumerate([(20, 30), (40, 60), (20, 30), (30, 20), (20, 30)]):
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{i}.png")
  Image.new("RGB", (300, 200)).save(tmp_path / "whole.jpg")
  (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
  (tmp_path / "whole.jpg").unlink()
  (tmp_path / "text.jpg").write_text("no image")
  return [epath.Path(path) for path in sorted(tmp_path.iterdir())]


def batches_of(paths, failed, **options):
  options = {"batch_size": 8, "multiple": 1, "min_size": 20, "max_size": 99} | options
  report = lambda path, error: failed.append((path.name, str(error)))  # noqa: E731
  return list(prediction_batches.prediction_batches(paths, failed=report, **options))


def files_in(batches):
  return [row.content for batch in batches for row in batch.rows if row is not None]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_readable_image_comes_once_and_the_others_are_reported(paths, batch_size):
  failed = []
  batches = batches_of(paths, failed, batch_size=batch_size)
  assert sorted(file.path.name for file in files_in(batches)) == [
    "0.png",
    "1.png",
    "2.png",
    "3.png",
    "4.png",
  ]
  assert sorted(name for name, _ in failed) == ["half.jpg", "text.jpg"]
  assert all(name in message for name, message in failed)
  for batch in batches:
    assert len(batch.image) == len(batch.rows) <= batch_size
    for image, row in zip(batch.image, batch.rows, strict=True):
      if row is None:
        assert not image.any()
        continue
      path, original = row.content
      np.testing.assert_array_equal(original, np.array(Image.open(path)))
      np.testing.assert_array_equal(image, resize.resize_image(original, *image.shape[:2]))


def test_images_of_one_input_shape_share_a_batch_and_equal_sizes_are_neighbours(paths):
  batches = batches_of(paths, [])
  shapes = {batch.image.shape for batch in batches}
  # The header of half.jpg is whole; its row stays empty.
  assert shapes == {(5, 20, 30, 3), (1, 30, 20, 3)}
  [batch] = [batch for batch in batches if len(batch.image) == 5]
  heights = [file.original.shape[0] for file in files_in([batch])]
  assert heights == [20, 20, 20, 40]


def test_batches_divide_over_the_devices(paths):
  batches = batches_of(paths, [], multiple=4, batch_size=2)
  assert all(len(batch.image) % 4 == 0 for batch in batches)
  assert len(files_in(batches)) == 5


def test_min_size_0_keeps_native_sizes(paths):
  shapes = {batch.image.shape[1:3] for batch in batches_of(paths, [], min_size=0)}
  assert shapes == {(20, 30), (40, 60), (30, 20)}


def test_halves_of_input_sides_go_up_or_to_the_even_number(tmp_path):
  Image.new("RGB", (81, 40)).save(tmp_path / "a.png")  # 20 / 40 * 81 = 40.5
  for even, width in ((False, 41), (True, 40)):
    [batch] = batches_of([epath.Path(tmp_path / "a.png")], [], half_even=even)
    assert batch.image.shape == (1, 20, width, 3)


def test_images_too_large_are_refused_and_the_others_come(paths):
  failed = []
  batches = batches_of(paths[:5], failed, max_pixels=40 * 60 - 1)
  assert len(files_in(batches)) == 4
  [(name, message)] = failed
  assert name == "1.png" and "60 x 40 are 2,400 pixels" in message
  failed = []
  batches_of(paths[:5], failed, min_size=0, max_size=30)
  [(name, message)] = failed
  assert name == "1.png" and "config.eval.min_size=0 leaves at its native size" in message


def test_large_images_come_in_smaller_batches(paths, monkeypatch):
  monkeypatch.setattr(prediction_batches, "_BATCH_PIXELS", 2 * 40 * 60)
  batches = batches_of(paths[:5], [])
  assert sorted(len(batch.image) for batch in batches) == [1, 2, 2]
  assert len(files_in(batches)) == 5
