import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ltss_jax.results import metrics

# Sums of at most 12 numbers of at most 1 in another order: a few units in the last place.
CLOSE = {"rel_tol": 1e-14, "abs_tol": 1e-15}


def reference_iou(confusion, c):
  """(iou, labelled, predicted) of class c, cell by cell, in Python's unbounded integers."""
  size = len(confusion)
  labelled = sum(int(confusion[c][j]) for j in range(size))
  predicted = sum(int(confusion[i][c]) for i in range(size))
  right = int(confusion[c][c])
  union = labelled + predicted - right
  return (right / union if union else math.nan), labelled, predicted


def reference_miou(confusion, classes):
  total, count = 0.0, 0
  for c in classes:
    iou, labelled, predicted = reference_iou(confusion, c)
    if labelled > 0:
      total += iou
    if labelled > 0 or predicted > 0:
      count += 1
  return total / count if count else None


@st.composite
def confusion_matrices(draw):
  size = draw(st.integers(1, 12))
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  scale = draw(st.sampled_from([1, 3, 1000, 2**40]))
  confusion = rng.integers(0, scale, (size, size), endpoint=True)
  for c in range(size):  # classes that are absent from the labels, the predictions, or both
    kind = rng.integers(5)
    if kind in (0, 2):
      confusion[c, :] = 0
    if kind in (1, 2):
      confusion[:, c] = 0
  return confusion, rng.integers(0, 3, size)


@hypothesis.given(confusion_matrices())
def test_agrees_with_a_loop_over_classes(example):
  confusion, groups = example
  scores = metrics.segmentation_scores(confusion)
  classes = range(len(confusion))
  pixels = sum(int(count) for row in confusion for count in row)
  fwiou, accuracies, right = 0.0, [], 0
  for c in classes:
    iou, labelled, _ = reference_iou(confusion, c)
    assert scores.iou[c] == iou or math.isnan(scores.iou[c]) and math.isnan(iou)
    right += int(confusion[c, c])
    if labelled:
      fwiou += iou * labelled / pixels
      accuracies.append(int(confusion[c, c]) / labelled)
      assert scores.accuracy[c] == accuracies[-1]
    else:
      assert math.isnan(scores.accuracy[c])
  if pixels:
    assert math.isclose(scores.miou, reference_miou(confusion, classes), **CLOSE)
    assert math.isclose(scores.fwiou, fwiou, **CLOSE)
    assert math.isclose(scores.macc, sum(accuracies) / len(accuracies), **CLOSE)
    assert scores.pacc == right / pixels
  else:
    assert np.isnan([scores.miou, scores.fwiou, scores.macc, scores.pacc]).all()
  grouped = metrics.grouped_miou(scores.iou, groups)
  for index, name in enumerate(metrics.GROUP_NAMES):
    expected = reference_miou(confusion, [c for c in classes if groups[c] == index])
    if expected is None:
      assert grouped[name] is None
    else:
      assert math.isclose(grouped[name], expected, **CLOSE)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_counting_agrees_with_a_loop_over_pixels(seed, num_classes):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, num_classes, (7, 5)).astype(np.uint8)
  label[rng.random(label.shape) < 0.3] = 255
  prediction = rng.integers(0, num_classes, label.shape)
  expected = np.zeros((num_classes, num_classes), int)
  for t, p in zip(label.flat, prediction.flat, strict=True):
    if t != 255:
      expected[t, p] += 1
  counts = metrics.confusion_matrix(label, prediction, num_classes, 255)
  assert counts.dtype == np.int64
  np.testing.assert_array_equal(counts, expected)


def test_counting_wide_labels_does_not_overflow():
  # 846 * 847 + 846 exceeds uint16, the type of the labels.
  label = np.full((2, 2), 846, np.uint16)
  label[0, 0] = 65535
  counts = metrics.confusion_matrix(label, label, 847, 65535)
  assert counts[846, 846] == counts.sum() == 3


@pytest.mark.parametrize(
  ("label", "prediction", "message"),
  [
    ([[0, 3]], [[0, 0]], "label holds 0 to 3, but there are 3 classes"),
    ([[0, 1]], [[0, -1]], "prediction holds -1 to 0, but there are 3 classes"),
    ([[0, 1]], [[0, 1, 2]], r"label of shape \(1, 2\), prediction of shape \(1, 3\)"),
  ],
)
def test_values_that_are_no_class(label, prediction, message):
  with pytest.raises(ValueError, match=message):
    metrics.confusion_matrix(np.array(label), np.array(prediction), 3, 255)


def test_three_classes_by_hand():
  # Class 1 is never labelled but predicted twice; its IoU is 0 and it counts in the denominator.
  confusion = np.array([[6, 1, 1], [0, 0, 0], [1, 1, 2]])
  scores = metrics.segmentation_scores(confusion)
  # gt 8 0 4, pred 7 2 3, tp 6 0 2, union 9 2 5
  np.testing.assert_array_equal(scores.iou, [6 / 9, 0, 2 / 5])
  np.testing.assert_array_equal(scores.accuracy, [6 / 8, np.nan, 2 / 4])
  assert scores.miou == pytest.approx((2 / 3 + 2 / 5) / 3, rel=1e-15)
  assert scores.fwiou == pytest.approx(2 / 3 * 8 / 12 + 2 / 5 * 4 / 12, rel=1e-15)
  assert scores.macc == (6 / 8 + 2 / 4) / 2
  assert scores.pacc == 8 / 12
  assert metrics.grouped_miou(scores.iou, np.array([2, 0, 2])) == {
    "rare": 0.0,
    "common": None,
    "frequent": pytest.approx((2 / 3 + 2 / 5) / 2, rel=1e-15),
  }


def test_absent_class_counts_nowhere():
  small = metrics.segmentation_scores(np.array([[3, 1], [2, 4]]))
  padded = metrics.segmentation_scores(np.array([[3, 0, 1], [0, 0, 0], [2, 0, 4]]))
  assert np.isnan(padded.iou[1])
  assert (padded.miou, padded.fwiou, padded.macc) == (small.miou, small.fwiou, small.macc)


def test_counts_beyond_int32_and_float32_stay_exact():
  # 5,000 images of 2 megapixels, and one pixel that float32 would lose.
  scores = metrics.segmentation_scores(np.array([[10**10, 1], [0, 10**10]], np.int64))
  assert scores.iou[0] == 1e10 / (1e10 + 1) < 1
  assert scores.pacc == 2e10 / (2e10 + 1) < 1


def test_counts_of_parts_add_up():
  rng = np.random.default_rng(0)
  label, prediction = rng.integers(0, 4, (2, 9, 6))
  whole = metrics.confusion_matrix(label, prediction, 4, 3)
  parts = [metrics.confusion_matrix(label[i::2], prediction[i::2], 4, 3) for i in range(2)]
  np.testing.assert_array_equal(sum(parts), whole)


@pytest.mark.parametrize(
  ("confusion", "message"),
  [
    (np.zeros((2, 3), int), r"shape \(2, 3\)"),
    (np.zeros((0, 0), int), r"shape \(0, 0\)"),
    (np.ones((2, 2)), "float64"),
    (np.array([[1, -1], [0, 1]]), "negative count -1"),
  ],
)
def test_wrong_matrix(confusion, message):
  with pytest.raises(ValueError, match=message):
    metrics.segmentation_scores(confusion)


@pytest.mark.parametrize(
  ("groups", "message"),
  [([0, 1, 2], "groups of"), ([0, 3], "groups hold 0 to 3"), ([-1, 0], "groups hold -1 to 0")],
)
def test_wrong_groups(groups, message):
  with pytest.raises(ValueError, match=message):
    metrics.grouped_miou(np.array([0.5, 0.5]), np.array(groups))
