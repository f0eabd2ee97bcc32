"""The training stream: one function of (seed, position), however it is computed."""

import io
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from input_pipeline import pipeline, sampling
from tests import recipes

# Workers cannot import this test module by its name: its classes travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

REPOSITORY = pathlib.Path(__file__).parents[2]


class Records:
  """Small real JPEG images with PNG labels; label value 1 + i % 9 tells record i."""

  def __init__(self, count, unreadable=()):
    self.records = [self._record(i, i in unreadable) for i in range(count)]

  def _record(self, index, unreadable):
    rng = np.random.default_rng(index)
    height, width = rng.integers(20, 40, 2)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = np.full((height, width), 1 + index % 9, np.uint8)
    data = self._encode(image, "jpeg")
    return {
      "image": data[: len(data) // 2] if unreadable else data,
      "label": self._encode(label, "png"),
      "file_name": f"photo_{index}.jpg",
    }

  @staticmethod
  def _encode(array, image_format):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format)
    return buffer.getvalue()

  def __len__(self):
    return len(self.records)

  def __getitem__(self, index):
    return self.records[index]


class Names(pipeline.TrainBatches):
  """Record numbers instead of arrays, to look at the order alone."""

  def __getitem__(self, batch):
    first = batch * self.config.batch_size + self._first_row
    order = self._sampling
    return {"record": np.array([order.record_index(first + row) for row in range(self.rows)])}


SETTINGS = dict(batch_size=4, seed=3, crop_size=16, base_size=16, max_size=64, ignore_label=255)


def config(**changes):
  return recipes.train_pipeline(**SETTINGS | changes)


CONFIG = config()
SOURCE = Records(9)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def assert_equal_batches(got, expected):
  assert len(got) == len(expected)
  for one, other in zip(got, expected, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


def reference(count, first=0, **changes):
  batches = pipeline.TrainBatches(SOURCE, config(**changes))
  return [batches[i] for i in range(first, first + count)]


class TestStream:
  def test_shapes_types_and_labels(self):
    with pipeline.train_iterator(SOURCE, CONFIG) as iterator:
      batch = next(iterator)
    assert batch["image"].shape == (4, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 16, 16)
    assert batch["label"].dtype == np.uint8
    assert set(np.unique(batch["label"])) <= {*range(1, 10), 255}

  def test_order_is_the_shuffle_and_nothing_is_dropped_between_epochs(self):
    # 9 records in batches of 4: every batch of the first 9 but one in four straddles epochs.
    source = Records(9)
    batches = pipeline.TrainBatches(source, config(color_jitter=False, flip=False))
    seen = []
    for i in range(9):
      seen += [int(label[0, 0]) - 1 for label in batches[i]["label"]]
    assert [sorted(seen[9 * e : 9 * e + 9]) for e in range(4)] == [list(range(9))] * 4
    shuffle = sampling.EpochShuffle(9, CONFIG.seed)
    assert seen == [shuffle.record_index(n) for n in range(36)]

  def test_the_same_record_is_augmented_anew_in_each_epoch(self):
    batches = pipeline.TrainBatches(Records(1), config(batch_size=6))
    images = batches[0]["image"]
    assert len({image.tobytes() for image in images}) == 6

  def test_seed_changes_the_stream(self):
    one, other = reference(1), reference(1, seed=4)
    assert not np.array_equal(one[0]["image"], other[0]["image"])

  def test_threads_hand_out_the_batches_in_order(self):
    for prefetch in (1, 5):
      with pipeline.train_iterator(SOURCE, config(prefetch=prefetch)) as iterator:
        assert_equal_batches(take(iterator, 6), reference(6))

  @pytest.mark.parametrize("count", [1, 2, 4])
  def test_processes_hold_the_parts_of_the_global_batch(self, count):
    parts = [pipeline.train_iterator(SOURCE, CONFIG, p, count) for p in range(count)]
    for expected in reference(3):
      batches = [next(part) for part in parts]
      for key in ("image", "label"):
        np.testing.assert_array_equal(np.concatenate([b[key] for b in batches]), expected[key])
    for part in parts:
      part.close()

  def test_augmentations_can_be_turned_off(self):
    def names(**changes):
      return [type(t).__name__ for t in config(**changes).augmentation.chain()]

    first = ["DecodeScaledCrop"]
    assert names() == [*first, "ColorJitter", "RandomFlip", "PadTo"]
    assert names(color_jitter=False, flip=False) == [*first, "PadTo"]

  @given(st.integers(0, 50), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 40))
  def test_every_process_count_reads_the_same_global_order(self, batch, count, num_records):
    settings = config(batch_size=12)
    source = range(num_records)
    whole = Names(source, settings)[batch]["record"]
    parts = [Names(source, settings, p, count)[batch]["record"] for p in range(count)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


class TestState:
  def test_counts_batches_handed_out_and_resumes_in_mid_epoch(self):
    with pipeline.train_iterator(SOURCE, config(prefetch=4)) as iterator:
      assert iterator.get_state()["next_batch"] == 0
      take(iterator, 5)
      state = iterator.get_state()
      assert state == {"next_batch": 5, "seed": 3, "batch_size": 4, "num_records": 9}
      expected = take(iterator, 3)
    assert_equal_batches(expected, reference(3, first=5))
    with pipeline.train_iterator(SOURCE, CONFIG) as fresh:
      fresh.set_state(state)
      assert_equal_batches(take(fresh, 3), expected)
      fresh.set_state({**state, "next_batch": 6})  # Back, after batches were drawn.
      assert_equal_batches(take(fresh, 2), expected[1:])
    with pipeline.train_iterator(SOURCE, CONFIG, start_batch=5) as started:
      assert_equal_batches(take(started, 1), expected[:1])

  def test_is_the_same_on_all_processes(self):
    states = []
    for p in range(2):
      with pipeline.train_iterator(SOURCE, CONFIG, p, 2) as iterator:
        take(iterator, 2)
        states.append(iterator.get_state())
    assert states[0] == states[1]

  def test_far_ahead_costs_nothing(self):
    with pipeline.train_iterator(SOURCE, CONFIG) as iterator:
      iterator.set_state({**iterator.get_state(), "next_batch": 10**9})
      assert_equal_batches(take(iterator, 1), reference(1, first=10**9))

  @pytest.mark.parametrize(
    ("changes", "message"),
    [
      ({"seed": 4}, "seed 4, this run has seed 3"),
      ({"batch_size": 8}, "batch_size 8, this run has batch_size 4"),
      ({"num_records": 10}, "num_records 10, this run has num_records 9"),
    ],
  )
  def test_of_another_stream_is_refused(self, changes, message):
    iterator = pipeline.train_iterator(SOURCE, CONFIG)
    with pytest.raises(ValueError, match=message):
      iterator.set_state({**iterator.get_state(), **changes})


class TestErrors:
  def test_batch_size_that_does_not_divide_names_both(self):
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 processes"):
      pipeline.train_iterator(SOURCE, CONFIG, 0, 3)
    with pytest.raises(ValueError, match=r"process_index 2 is not in \[0, 2\)"):
      pipeline.train_iterator(SOURCE, CONFIG, 2, 2)

  def test_empty_source(self):
    with pytest.raises(ValueError, match="holds 0 records"):
      pipeline.train_iterator([], CONFIG)

  @pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("crop_size", 0), ("num_workers", -1), ("prefetch", 0)]
  )
  def test_settings_out_of_range_name_the_field(self, field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be at least"):
      config(**{field: value})

  def test_undecodable_record_names_the_file_and_the_state_stays(self):
    source = Records(9, unreadable=[5])
    shuffle = sampling.EpochShuffle(9, CONFIG.seed)
    bad_batch = [shuffle.record_index(n) for n in range(9)].index(5) // 4
    with pipeline.train_iterator(source, CONFIG) as iterator:
      take(iterator, bad_batch)
      for _ in range(2):
        with pytest.raises(ValueError, match="photo_5.jpg: the image cannot be decoded"):
          next(iterator)
        assert iterator.get_state()["next_batch"] == bad_batch

  def test_storage_errors_name_the_record(self):
    class Broken:
      def __len__(self):
        return 1

      def __getitem__(self, index):
        raise OSError("short read")

    with pipeline.train_iterator(Broken(), CONFIG) as iterator:
      with pytest.raises(ValueError, match=r"Record 0 of 1 cannot be read \(short read\)"):
        next(iterator)

  def test_closed_iterator(self):
    iterator = pipeline.train_iterator(SOURCE, CONFIG)
    iterator.close()
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
      next(iterator)


_SCRIPT = """
import io, multiprocessing, time
import numpy as np
from absl import flags
from PIL import Image
from input_pipeline import pipeline

def png(shape):
  buffer = io.BytesIO()
  Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, "png")
  return buffer.getvalue()

if __name__ == "__main__":
  from tests import recipes  # which workers do not need

  flags.FLAGS.mark_as_parsed()
  config = recipes.train_pipeline(
    batch_size=1, seed=0, crop_size=8, base_size=8, max_size=8, ignore_label=255, num_workers=1
  )
  record = {"image": png((8, 8, 3)), "label": png((8, 8)), "file_name": "a.png"}
  iterator = pipeline.train_iterator([record], config)
  next(iterator)
  print(multiprocessing.active_children()[0].pid, flush=True)
  time.sleep(60)
"""


class TestWorkers:
  @pytest.mark.parametrize("count", [1, 2])
  def test_same_stream_resume_signals_and_close(self, count):
    with pipeline.train_iterator(SOURCE, config(num_workers=count)) as iterator:
      iterator.set_state({**iterator.get_state(), "next_batch": 7})
      assert multiprocessing.active_children() == []  # Restoring has not started anything yet.
      batches = take(iterator, 3)
      assert_equal_batches(batches, reference(3, first=7))
      assert all(type(array) is np.ndarray for array in batches[0].values())
      children = multiprocessing.active_children()
      assert len(children) == count
      for child in children:  # As a preempted machine or Ctrl-C would: all but SIGKILL.
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
      assert_equal_batches(take(iterator, 4 * count), reference(4 * count, first=10))
      assert iterator.get_state()["next_batch"] == 10 + 4 * count
    assert multiprocessing.active_children() == []

  def test_errors_name_the_file(self):
    source = Records(9, unreadable=[0, 1, 2, 3, 4, 5, 6, 7, 8])
    with pipeline.train_iterator(source, config(num_workers=2)) as iterator:
      with pytest.raises(ValueError, match=r"photo_\d.jpg: the image cannot be decoded"):
        next(iterator)
      assert multiprocessing.active_children() == []

  def test_scarce_shared_memory_is_not_used(self, caplog):
    # 2**20 pixels a side never fit; what counts is that the decision is taken and said.
    batches = pipeline.TrainBatches(SOURCE, config(num_workers=2, crop_size=2**20))
    if not os.path.isdir("/dev/shm"):
      pytest.skip("no /dev/shm on this system")
    assert not pipeline._fits_shared_memory(batches)
    assert "--shm-size" in caplog.text
    assert pipeline._fits_shared_memory(pipeline.TrainBatches(SOURCE, config(num_workers=2)))

  def test_end_with_a_killed_main_process(self, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
      [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
      worker = int(process.stdout.readline())
      os.kill(worker, 0)  # It is alive.
      process.kill()
    assert is_gone(worker, seconds=10)


def is_gone(pid, seconds):
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    try:
      os.kill(pid, 0)
    except ProcessLookupError:
      return True
    if pathlib.Path(f"/proc/{pid}/stat").exists() and (
      pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    ):
      return True  # Ended, and waits for whoever adopted it.
    time.sleep(0.05)
  return False


def test_present_classes_by_hand():
  label = np.array([[3, 3, 0], [7, 255, 255]], np.uint8)
  counts = np.array([50, 0, 0, 2, 0, 0, 0, 9])
  classes, dropped = pipeline.present_classes(label, 4, counts)
  np.testing.assert_array_equal(classes, [0, 3, 7, -1])
  assert classes.dtype == np.int32 and dropped == 0
  # No room for all: class 0, the most frequent in the training set, is left out.
  classes, dropped = pipeline.present_classes(label, 2, counts)
  np.testing.assert_array_equal(classes, [3, 7])
  assert dropped == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_present_classes_are_the_rarest_of_those_in_the_label(seed, max_targets):
  rng = np.random.default_rng(seed)
  counts = rng.integers(0, 5, 10)
  label = rng.choice([*range(10), 65535], (4, 4)).astype(np.uint16)
  classes, dropped = pipeline.present_classes(label, max_targets, counts)
  listed = classes[classes >= 0]
  present = np.setdiff1d(np.unique(label), [65535])
  assert len(listed) + dropped == len(present) and len(listed) == min(len(present), max_targets)
  assert (np.diff(listed) > 0).all() and (classes[len(listed) :] == -1).all()
  left_out = np.setdiff1d(present, listed)
  assert not len(left_out) or counts[left_out].min() >= counts[listed].max()


def test_batches_list_their_classes_where_targets_are_asked_for():
  records = Records(6)
  options = config(max_targets=3, class_counts=tuple(range(10)))
  batch = pipeline.TrainBatches(records, options)[0]
  assert batch["classes"].shape == (options.batch_size, 3)
  assert batch["dropped_classes"].shape == (options.batch_size,)
  for label, classes in zip(batch["label"], batch["classes"], strict=True):
    np.testing.assert_array_equal(classes[classes >= 0], np.setdiff1d(np.unique(label), [255]))
  assert set(pipeline.TrainBatches(records, config())[0]) == {"image", "label"}
