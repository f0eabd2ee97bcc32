"""The note of a run's data: the same data anywhere pass, other images or classes do not."""

import dataclasses

import numpy as np
import pytest

from input_pipeline import class_stats, prepared
from ltss_jax import run_data, workdir as files
from ltss_jax.dataset import Dataset


def dataset(path, pixels=(5, 3)):
  """Two training images of 2 x 4 with one class each, and one for validation."""
  metadata = prepared.ClassMetadata("photos", ("sky", "grass", "roof"), (0, 1, 2), 255)

  def counts(*numbers):
    rows = [(np.array([0], np.int32), np.array([number])) for number in numbers]
    return class_stats.PixelCounts.from_rows([(2, 4)] * len(rows), rows)

  train = counts(*pixels)
  return Dataset(metadata, path, train, counts(8), class_stats.class_stats(train, 3))


def test_the_same_data_elsewhere_pass(tmp_path):
  run_data.check(tmp_path, dataset(tmp_path / "a"))  # no note, nothing to compare
  run_data.write(tmp_path, dataset(tmp_path / "a"))
  run_data.check(tmp_path, dataset(tmp_path / "b"))
  run_data.check_classes(tmp_path, dataset(tmp_path / "b").metadata)
  noted = files.data(tmp_path).read_text()
  run_data.write(tmp_path, dataset(tmp_path / "b"))
  assert files.data(tmp_path).read_text() == noted


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"class_names": ("cat", "dog", "cow")},
      r"classes: 3 \(sky, grass, roof\) there, 3 \(cat, dog",
    ),
    ({"ignore_label": 254}, "ignore_label: 255 there, 254 now"),
  ],
)
def test_other_classes_are_refused(tmp_path, changes, message):
  run_data.write(tmp_path, dataset(tmp_path))
  other = dataset(tmp_path)
  other = dataclasses.replace(other, metadata=dataclasses.replace(other.metadata, **changes))
  for check in (
    lambda: run_data.check(tmp_path, other),
    lambda: run_data.check_classes(tmp_path, other.metadata),
  ):
    with pytest.raises(ValueError, match=message) as error:
      check()
    assert str(tmp_path) in str(error.value)


def test_other_labels_and_a_damaged_note_are_refused(tmp_path):
  run_data.write(tmp_path, dataset(tmp_path))
  with pytest.raises(ValueError, match="train_labels: .* there, .* now\n.*another --workdir"):
    run_data.check(tmp_path, dataset(tmp_path, pixels=(3, 5)))
  with pytest.raises(ValueError, match="train_images: 2 there, 3 now"):
    run_data.check(tmp_path, dataset(tmp_path, pixels=(5, 3, 1)))
  files.data(tmp_path).write_text("{")
  with pytest.raises(ValueError, match=r"data\.json is not readable"):
    run_data.check(tmp_path, dataset(tmp_path))
