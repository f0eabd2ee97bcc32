"""The images that are looked at, and the score that ranks them."""

import collections

import numpy as np
import pytest

from ltss_jax.evaluation import examples
from ltss_jax.results import metrics


def test_the_choice_is_spread_over_the_most_frequent_shapes():
  shapes = [(32, 32 * (1 + i % 10)) for i in range(1000)] + [(7, 7)]
  chosen = examples.choose(shapes, 64)
  assert len(chosen) == len(set(chosen)) == 64 and chosen == sorted(chosen)
  assert chosen[0] < 10 and chosen[-1] > 985
  assert len({shapes[i] for i in chosen}) <= examples.MAX_SHAPES
  assert examples.choose(shapes, 64) == chosen
  assert examples.choose([(8, 8)] * 3, 64) == [0, 1, 2]
  assert examples.choose([], 4) == []
  most = collections.Counter(shapes[i] for i in examples.choose(shapes, 1))
  assert sum(most.values()) == 1


@pytest.mark.parametrize("ignore_label", [5, 255, 65535])
def test_the_score_of_an_image_is_its_miou(ignore_label):
  rng = np.random.default_rng(0)
  label = rng.choice([1, 3, 4, ignore_label], (9, 7)).astype(np.uint16)
  prediction = rng.choice([0, 1, 3], (9, 7)).astype(np.uint16)
  confusion = metrics.confusion_matrix(label, prediction, 5, ignore_label)
  expected = metrics.segmentation_scores(confusion).miou
  assert examples.image_miou(label, prediction, 5, ignore_label) == pytest.approx(expected)
  nothing = np.full_like(label, ignore_label)
  assert np.isnan(examples.image_miou(nothing, prediction, 5, ignore_label))
