"""Both class heads by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses.class_heads import HEADS
from ltss_jax.losses.seesaw import Seesaw
from ltss_jax.models import mask2former
from tests import recipes


def test_heads_are_those_of_the_model():
  others = {name: head.num_others for name, head in mask2former.CLASS_HEADS.items()}
  assert {name: head.num_others for name, head in HEADS.items()} == others


@pytest.mark.parametrize(("head", "outputs"), [("softmax", 4), ("seesaw", 5)])
def test_probabilities_by_hand(head, outputs):
  logits = np.log(np.array([[1.0, 2, 5, 2, 6]]))[:, :outputs]
  scores = HEADS[head].probability(jnp.array(logits))[:, :3]
  # softmax: the last of four is "no object"; Seesaw: 2 against 6 says object with 1/4.
  expected = np.array([[1, 2, 5]]) / 10 if head == "softmax" else np.array([[1, 2, 5]]) / 8 / 4
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_seesaw_term_by_hand():
  classes = np.log(np.float32([1, 4, 3]))
  logits = np.array([[[[*classes, 0, np.log(3)], [*classes, np.log(3), 0]]]], np.float32)
  label = np.array([[[0, 3]]])  # the second query has no target
  loss, counts = Seesaw(seesaw_p=1.0, seesaw_q=1.0), np.array([[8.0, 2.0, 9.0]])
  sums = HEADS["seesaw"].loss_sums(loss, logits, label, no_object_weight=0.1, counts=counts)
  # S = (1, 1, 3), as in test_seesaw.py; objectness: both have the probability 1/4.
  expected = [np.log(1 + 4 + 9)], [1], [2 * np.log(4)]
  np.testing.assert_allclose(sums, expected, rtol=1e-6)  # float32 logarithms


def test_the_cross_entropy_term_by_hand():
  logits = np.log(np.float32([[[[1, 2, 5, 2], [1, 2, 5, 2]]]]))
  label = np.array([[[2, 3]]])  # the second query has no target
  sums = HEADS["softmax"].loss_sums(recipes.CROSS_ENTROPY, logits, label, no_object_weight=0.1)
  np.testing.assert_allclose(sums, ([np.log(2) + 0.1 * np.log(5)], [1.1], [0]), rtol=1e-6)
