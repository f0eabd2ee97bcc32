"""Validation images: every record once, at its exact input shape, for any number of processes."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from input_pipeline import resize, validation_batches

SHAPES = [(30, 40), (40, 30), (30, 40), (60, 80), (25, 50), (30, 40), (30, 40), (60, 81), (40, 30)]


def png(array) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "png")
  return buffer.getvalue()


def make_records(shapes):
  records = []
  for index, (height, width) in enumerate(shapes):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 300, (height, width), dtype=np.uint16)
    records.append({"image": png(image), "label": png(label), "file_name": f"{index}.png"})
  return records


RECORDS = make_records(SHAPES)
SIZES = tuple(np.array(SHAPES, np.int32).T)


def batches_of(records=RECORDS, sizes=SIZES, **options):
  options = {"batch_size": 2, "min_size": 20, "max_size": 30, **options}
  return validation_batches.ValidationBatches(records, sizes, **options)


def decoded(index):
  image = Image.open(io.BytesIO(RECORDS[index]["image"]))
  return image, np.asarray(Image.open(io.BytesIO(RECORDS[index]["label"])))


@pytest.mark.parametrize("min_size", [20, 0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_record_once_at_its_input_shape_and_original_label(min_size, count):
  seen = []
  for p in range(count):
    for batch in batches_of(batch_size=4, min_size=min_size, process_index=p, process_count=count):
      assert batch.image.shape[0] == len(batch.rows) == 4 // count
      assert batch.image.dtype == np.uint8
      for pixels, row in zip(batch.image, batch.rows, strict=True):
        if row is None:
          continue
        index = row.content.index
        seen.append(index)
        assert index % count == p
        image, label = decoded(index)
        height, width = resize.eval_size(*label.shape, min_size, 30)
        expected = image if min_size == 0 else image.resize((width, height), Image.BILINEAR)
        np.testing.assert_array_equal(pixels, np.asarray(expected))
        np.testing.assert_array_equal(row.content.label, label)
        assert row.content.label.dtype == np.uint16 and row.size == label.shape
        assert row.content.file_name == f"{index}.png"
  assert sorted(seen) == list(range(len(RECORDS)))


def indices_of(batch):
  return [row and row.content.index for row in batch.rows]


def test_groups_by_hand():
  batches = batches_of()
  # 20 / 30 * 40 = 26.7 -> 27; 25 x 50 and 60 x 80, 60 x 81 meet the limits 30 and 27 (20 / 60).
  assert batches.shapes == [(20, 27), (27, 20), (15, 30)]
  assert [indices_of(batch) for batch in batches] == [[0, 2], [3, 5], [6, 7], [1, 8], [4, None]]


def test_order_is_the_same_each_time_and_for_any_number_of_threads(monkeypatch):
  batches, runs = batches_of(), []
  for cores in (1, 3, 3):
    monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
    runs.append(list(batches))
  for run in runs[1:]:
    for one, other in zip(run, runs[0], strict=True):
      assert indices_of(one) == indices_of(other)
      np.testing.assert_array_equal(one.image, other.image)


def test_halves_of_input_sides_go_up_or_to_the_even_number():
  # 20 / 40 * 81 = 40.5
  records, sizes = make_records([(40, 81)]), (np.array([40]), np.array([81]))
  shapes = [
    batches_of(records, sizes, max_size=99, half_even=even).shapes for even in (False, True)
  ]
  assert shapes == [[(20, 41)], [(20, 40)]]


def test_a_process_without_records_yields_nothing():
  sizes = SIZES[0][:2], SIZES[1][:2]
  batches = batches_of(RECORDS[:2], sizes, batch_size=4, process_index=3, process_count=4)
  assert list(batches) == []
  assert batches.shapes == []


def test_only_some_records_are_read_where_some_are_asked_for():
  parts = [batches_of(only=[1, 3, 4, 8], process_index=p, process_count=2) for p in (0, 1)]
  assert [[indices_of(batch) for batch in part] for part in parts] == [[[1], [4]], [[3], [8]]]


def test_shapes_are_rounded_up_on_request():
  batches = batches_of(shape_multiple=32)
  assert batches.shapes == [(32, 32)]
  first, *_ = batches
  assert indices_of(first) == [0, 1] and first.input_sizes == [(20, 27), (27, 20)]
  assert first.image[0, :20, :27].any() and not first.image[0, 20:].any()
  assert not first.image[0, :, 27:].any()


def test_undecodable_record_names_the_file():
  records = [*RECORDS]
  records[4] = {**RECORDS[4], "image": RECORDS[4]["image"][:300]}
  with pytest.raises(ValueError, match="4.png: the image cannot be decoded"):
    list(batches_of(records))


def test_sizes_that_differ_from_the_statistics_name_the_file():
  heights = SIZES[0].copy()
  heights[3] += 1
  with pytest.raises(ValueError, match=r"3.png: .*\(60, 80\).* say \(61, 80\)"):
    list(batches_of(sizes=(heights, SIZES[1])))
  with pytest.raises(ValueError, match="8 heights and 8 widths are known of 9 records"):
    batches_of(sizes=(SIZES[0][:8], SIZES[1][:8]))


def test_batch_size_that_does_not_divide_names_both():
  with pytest.raises(ValueError, match="batch_size 3 does not divide over 2 processes"):
    batches_of(batch_size=3, process_count=2)
