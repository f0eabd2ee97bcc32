"""Weights under the names of other libraries."""

import re
from collections.abc import Mapping
from typing import Any


def renamed(arrays: Mapping[str, Any], *rules: tuple[str, str]) -> dict[str, Any]:
  """The arrays under the names that the rules (pattern, replacement) make, one after the other."""
  result = {}
  for name, array in arrays.items():
    for pattern, replacement in rules:
      name = re.sub(pattern, replacement, name)
    result[name] = array
  assert len(result) == len(arrays)
  return result
