import numpy as np
import pytest

from ltss_jax.study import statistics


def results(study, method):
  return {seed: content["record"] for seed, content in study[method].items()}


def test_values_by_seed(study, content):
  assert statistics.values_by_seed(results(study, "rfs"), "image rare") == {0: 4, 1: 7, 2: 10}
  assert statistics.values_by_seed(results(study, "rfs"), "mIoU") == {0: 30.0, 1: 33.0, 2: 35.25}
  empty = {0: content("rfs", 0, (1.0, 2.0, None, 4.0))["record"]}
  assert statistics.values_by_seed(empty, "pixel common") == {}
  assert statistics.values_by_seed(empty, "pixel frequent") == {0: 4.0}


def test_metrics_cover_the_totals_and_groups_of_a_result(study):
  result = study["rfs"][0]["record"]
  for metric in statistics.METRICS:
    assert 0 in statistics.values_by_seed({0: result}, metric)


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ({0: 1.0, 5: 2.0, 2: 6.0}, (3.0, 7**0.5, 3)),  # squares of -2, -1, 3 over 2
    ({3: 4.0}, (4.0, None, 1)),
    ({}, (None, None, 0)),
  ],
)
def test_score_by_hand(values, expected):
  score = statistics.score(values)
  assert (score.mean, score.deviation, score.count) == pytest.approx(expected)


def test_paired_difference_by_hand():
  """Differences 1, 2, 3: mean 2, deviation 1, error 1 / sqrt(3), t = 2 sqrt(3)."""
  ours, theirs = {0: 4.0, 1: 7.0, 2: 10.0, 7: 99.0}, {2: 7.0, 1: 5.0, 0: 3.0, 8: -99.0}
  difference = statistics.paired_difference(ours, theirs)
  t = 2 * 3**0.5
  # With two degrees of freedom Student's distribution has a closed form.
  p_value = 1 - t / (t**2 + 2) ** 0.5
  assert (difference.mean, difference.count) == (2.0, 3)
  assert difference.standard_error == pytest.approx(3**-0.5, rel=1e-12)
  assert difference.p_value == pytest.approx(p_value, rel=1e-9)
  assert difference.is_clear


def test_a_difference_is_clear_beyond_two_standard_errors():
  def clear(differences):
    values = dict(enumerate(differences))
    return statistics.paired_difference(values, dict.fromkeys(values, 0.0)).is_clear

  assert clear((1.0, 2.9))  # mean 1.95, error 0.95
  assert not clear((1.0, 3.1))  # mean 2.05, error 1.05
  assert clear((-1.0, -1.1, -0.9))
  assert not clear((5.0,))
  assert not clear(())


def test_equal_differences_leave_nothing_to_test():
  difference = statistics.paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
  assert difference == statistics.Difference(1.0, 0.0, None, 2)


def test_one_or_no_common_seed():
  assert statistics.paired_difference({0: 2.0, 1: 1.0}, {0: 5.0}) == statistics.Difference(
    -3.0, None, None, 1
  )
  assert statistics.paired_difference({0: 2.0}, {1: 5.0}) == statistics.Difference(
    None, None, None, 0
  )


def test_means_of_classes_leave_out_missing_values(content):
  iou = statistics.class_iou(
    [
      content("rfs", 0, (1.0, None, 3.0, None))["record"],
      content("rfs", 1, (3.0, None, None, 8.0))["record"],
    ]
  )
  assert iou.shape == (2, 4)
  np.testing.assert_array_equal(statistics.mean_over_seeds(iou), [2.0, np.nan, 3.0, 8.0])
