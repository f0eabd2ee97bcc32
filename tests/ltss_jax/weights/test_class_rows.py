"""Rows of class layers follow the names of the classes; small enough to check by hand."""

import numpy as np
import pytest

from ltss_jax.weights import class_rows


def rows(saved, wanted, fresh, of_saved):
  result = class_rows.ClassRows(saved, wanted).of_model(np.array(fresh), np.array(of_saved))
  return None if result is None else result.tolist()


@pytest.mark.parametrize(
  ("saved", "wanted", "expected"),
  [
    ("abc", "cab", [3, 1, 2, 9]),  # another order
    ("abc", "axc", [1, -2, 3, 9]),  # one name differs
    ("abc", "bd", [2, -2, 9]),  # fewer classes
    ("abc", "dcba", [-1, 3, 2, 1, 9]),  # more of them
    ("aba", "abc", [-1, 2, -3, 9]),  # a name stands twice there
    ("abc", "aab", [-1, -2, 2, 9]),  # or here
    ("abc", "xyz", None),
    ("aab", "aac", None),
  ],
)
def test_rows_go_by_name_and_what_stands_behind_them_stays(saved, wanted, expected):
  fresh = [-1, -2, -3, -4][: len(wanted)] + [-9]
  assert rows(saved, wanted, fresh, [1, 2, 3, 9]) == expected


def test_the_last_axis_is_that_of_the_classes():
  assert rows("ab", "ba", np.zeros((2, 2)), [[1, 2], [3, 4]]) == [[2, 1], [4, 3]]
  assert rows("ab", "ba", np.zeros((2, 4)), [[1, 2, 5, 6], [3, 4, 7, 8]]) == [
    [2, 1, 5, 6],
    [4, 3, 7, 8],
  ]


@pytest.mark.parametrize("shape", [(2, 5), (3, 3), (2, 2)])
def test_layers_that_differ_in_more_than_classes_do_not_fit(shape):
  """As a Seesaw head of as many outputs, whose last two are objectness."""
  assert rows("abc", "ba", np.zeros((2, 3)), np.ones((2, 4))) is not None
  assert rows("abc", "ba", np.zeros((2, 3)), np.ones(shape)) is None


def test_lines_name_the_classes_and_not_too_many():
  lines = class_rows.ClassRows("abc", "bxy").lines()
  assert lines == [
    "~ 1 of 3 classes have the rows of their name",
    "- 2 classes start afresh: x, y",
    "+ 2 saved classes are not used: a, c",
  ]
  assert class_rows.ClassRows("ab", "ba").lines() == [
    "~ 2 of 2 classes have the rows of their name"
  ]
  many = [f"class {i}" for i in range(150)]
  assert class_rows.ClassRows("ab", many).lines()[1].endswith("class 9, ... and 140 more")


def test_equal_lists_are_the_same_classes():
  assert class_rows.ClassRows(["a", "a"], ("a", "a")).are_equal
  assert not class_rows.ClassRows("ab", "ba").are_equal
