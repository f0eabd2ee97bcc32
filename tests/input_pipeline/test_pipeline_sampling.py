"""Repeat factor sampling and Copy-Paste in the stream: one function of (seed, position) still."""

import dataclasses
import io
import sys

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from input_pipeline import pipeline, sampling
from tests import recipes

# Workers cannot import this test module by its name: its classes travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_RECORDS = 7
FACTORS = np.array([1.0, 1.0, 1.5, 3.2, 1.1, 1.0, 2.0])


class Records:
  """Images of one colour; record i has the label i and, in its upper half, the label 10 + i."""

  def __len__(self):
    return NUM_RECORDS

  def __getitem__(self, index):
    label = np.full((16, 16), index, np.uint8)
    label[:8] += 10
    image = np.stack([label * 10] * 3, axis=-1)
    return {"image": self._png(image), "label": self._png(label), "file_name": f"{index}.png"}

  @staticmethod
  def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


SOURCE = Records()
SETTINGS = dict(
  batch_size=4,
  seed=3,
  crop_size=16,
  base_size=16,
  max_size=64,
  ignore_label=255,
  min_factor=1.0,
  max_factor=1.0,
  color_jitter=False,
  flip=False,
  max_targets=4,
  class_counts=(1,) * 20,
)
AUGMENTED = dict(flip=True, color_jitter=True)


def stream(**changes):
  return recipes.train_pipeline(**SETTINGS | changes)


PLAIN = stream()
REPEATED = stream(repeat_factors=FACTORS)
PASTED = stream(repeat_factors=FACTORS, copy_paste=recipes.copy_paste(255), **AUGMENTED)


def batches_of(config, first, count, source=SOURCE):
  batches = pipeline.TrainBatches(source, config)
  return [batches[i] for i in range(first, first + count)]


def assert_equal_batches(got, expected):
  assert len(got) == len(expected)
  for one, other in zip(got, expected, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


def records_of(batches):
  return [int(label[15, 15]) for batch in batches for label in batch["label"]]


def test_records_follow_the_repeat_factor_shuffle():
  shuffle = sampling.RepeatFactorShuffle(FACTORS, 3)
  expected = [shuffle.record_index(position) for position in range(60)]
  assert records_of(batches_of(REPEATED, 0, 15)) == expected
  assert max(np.bincount(expected)) > 60 / NUM_RECORDS * 1.5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("config", [REPEATED, PASTED], ids=["repeated", "pasted"])
def test_resume_in_mid_epoch_with_workers(config, workers):
  epoch, offset = sampling.RepeatFactorShuffle(FACTORS, 3).locate(5 * 4)
  assert epoch == 1 and offset > 0
  config = dataclasses.replace(config, num_workers=workers)
  with pipeline.train_iterator(SOURCE, config) as iterator:
    first = [next(iterator) for _ in range(5)]
    state = iterator.get_state()
    rest = [next(iterator) for _ in range(4)]
  assert_equal_batches(first + rest, batches_of(config, 0, 9))
  assert state["next_batch"] == 5 and all(type(value) is int for value in state.values())
  with pipeline.train_iterator(SOURCE, config) as fresh:
    fresh.set_state(state)
    assert_equal_batches([next(fresh) for _ in range(4)], rest)


@pytest.mark.parametrize("config", [REPEATED, PASTED], ids=["repeated", "pasted"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_hold_the_parts_of_the_global_batch(config, count):
  parts = [pipeline.TrainBatches(SOURCE, config, host, count) for host in range(count)]
  for number, expected in enumerate(batches_of(config, 4, 4), start=4):
    for key, whole in expected.items():
      got = np.concatenate([part[number][key] for part in parts])
      np.testing.assert_array_equal(got, whole)


def test_state_of_other_factors_is_refused():
  state = pipeline.train_iterator(SOURCE, REPEATED).get_state()
  other = dataclasses.replace(REPEATED, repeat_factors=FACTORS + 0.5)
  with pytest.raises(ValueError, match="saved with repeat_factors_crc [0-9]+, this run has"):
    pipeline.train_iterator(SOURCE, other).set_state(state)
  with pytest.raises(ValueError, match="saved with repeat_factors_crc None"):
    plain = pipeline.train_iterator(SOURCE, PLAIN)
    pipeline.train_iterator(SOURCE, other).set_state(plain.get_state())


@pytest.mark.parametrize("field", ["repeat_factors", "source_weights"])
def test_factors_of_other_data_are_refused(field):
  config = stream(**{field: np.ones(3)})
  with pytest.raises(ValueError, match=f"{field} has 3 entries, the source 7 records"):
    pipeline.TrainBatches(SOURCE, config)


def pasted_sources(count, **changes):
  """The record of each pasted region; rare classes are the 10 + i, so that every source has one."""
  rare = recipes.copy_paste(255, "rare", rare_classes=range(10, 20))
  config = stream(batch_size=count, copy_paste=rare, **changes)
  (batch,) = batches_of(config, 0, 1)
  return np.array([int(label[0, 0]) - 10 for label in batch["label"]]), batch


def test_sources_are_uniform_whatever_the_destination():
  sources, batch = pasted_sources(2100, repeat_factors=FACTORS)
  counts = np.bincount(sources, minlength=NUM_RECORDS)
  assert ((counts - 300) ** 2 / 300).sum() < 22.5  # 0.999 quantile of 6 degrees of freedom
  # The lower half is the destination's: repeat factor sampling acts on it alone.
  destinations = np.bincount(batch["label"][:, 15, 15], minlength=NUM_RECORDS)
  np.testing.assert_allclose(destinations / 2100, FACTORS / FACTORS.sum(), atol=0.01)
  # Source and destination are independent: the mean over sources is that of all records.
  of_three = sources[batch["label"][:, 15, 15] == 3]
  assert abs(of_three.mean() - 3) < 3.5 * 2 / np.sqrt(len(of_three))


def test_sources_by_weight():
  weights = np.array([1.0, 0, 0, 3, 0, 0, 4])
  sources, _ = pasted_sources(1600, source_weights=weights)
  counts = np.bincount(sources, minlength=NUM_RECORDS)
  expected = 200 * weights
  assert (counts[weights == 0] == 0).all()
  shown = weights > 0
  assert ((counts - expected)[shown] ** 2 / expected[shown]).sum() < 13.8  # 2 degrees of freedom


def test_copy_paste_leaves_the_destination_stream_as_it_is():
  config = dataclasses.replace(PASTED, copy_paste=None)
  nothing = dataclasses.replace(PASTED, copy_paste=recipes.copy_paste(255, "rare"))
  assert_equal_batches(batches_of(nothing, 0, 4), batches_of(config, 0, 4))


def test_source_and_destination_are_augmented_independently():
  class One(Records):
    def __len__(self):
      return 1

  paste = recipes.copy_paste(255, "rare", rare_classes=(0, 10))
  config = stream(**AUGMENTED, batch_size=64)
  (destination,) = batches_of(config, 0, 1, One())
  (pasted,) = batches_of(dataclasses.replace(config, copy_paste=paste), 0, 1, One())
  same = sum(map(np.array_equal, destination["image"], pasted["image"]))
  assert same < 20


@pytest.mark.parametrize("mode", [None, "random", "rare"])
def test_batches_of_images_of_all_sizes_have_one_form(mode):
  """The same keys, shapes and types, which a training step is compiled for."""

  class OfAllSizes(Records):
    def __getitem__(self, index):
      label = np.repeat(np.arange(1 + 2 * index, dtype=np.uint8)[:, None], 7 + 5 * index, axis=1)
      image = np.stack([label] * 3, axis=-1)
      return {"image": self._png(image), "label": self._png(label), "file_name": f"{index}.png"}

  options = dict(rare_classes=(1, 12), flip=True, min_scale=0.5, max_scale=2.0)
  paste = recipes.copy_paste(255, mode, **options) if mode else None
  scales = dict(min_factor=0.5, max_factor=2.0)
  config = stream(repeat_factors=FACTORS, flip=True, copy_paste=paste, **scales)
  batches = batches_of(config, 0, 8, OfAllSizes())
  forms = [{name: (x.shape, x.dtype) for name, x in batch.items()} for batch in batches]
  assert forms == [forms[0]] * 8
  assert any(batch["dropped_classes"].any() for batch in batches)  # More classes than targets.
  assert any((batch["classes"] < 0).any() for batch in batches)


def test_classes_listed_are_those_after_pasting():
  (batch,) = batches_of(dataclasses.replace(PASTED, batch_size=32), 0, 1)
  together = 0
  for label, classes in zip(batch["label"], batch["classes"], strict=True):
    present = np.setdiff1d(np.unique(label), [255])
    np.testing.assert_array_equal(classes[classes >= 0], present)
    together += len({value % 10 for value in present}) > 1
  assert together > 5  # Regions were pasted indeed.
