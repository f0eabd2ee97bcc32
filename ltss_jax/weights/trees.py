"""Nested dicts of arrays as flat ones, by paths such as "backbone/res2/0/conv1/conv/kernel"."""

import re
from collections.abc import Mapping
from typing import Any

Tree = dict[Any, Any]


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
  """Returns path -> leaf, in the tree's order."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}/")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def fill(tree: Mapping[Any, Any], leaves: Mapping[str, Any], prefix: str = "") -> Tree:
  """Puts leaves into a tree's structure.

  Args:
    tree: tree with the structure and the keys.
    leaves: path -> leaf; paths outside of the tree are not used.
    prefix: prefix of the tree's own paths.

  Returns:
    The tree with these leaves only, without empty branches.
  """
  result = {}
  for key, value in tree.items():
    path = f"{prefix}{key}"
    if isinstance(value, Mapping):
      branch = fill(value, leaves, f"{path}/")
      if branch:
        result[key] = branch
    elif path in leaves:
      result[key] = leaves[path]
  return result


def without(tree: Mapping[Any, Any], pattern: re.Pattern[str]) -> Tree:
  """The tree without the leaves whose path the pattern matches from its start."""
  leaves = flatten(tree)
  return fill(tree, {path: leaf for path, leaf in leaves.items() if not pattern.match(path)})
