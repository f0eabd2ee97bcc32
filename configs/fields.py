"""What a field of the config is: a default and valid values; every error names the nearest one."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections


@dataclasses.dataclass(frozen=True)
class Range:
  """An interval of valid values; an open end is no valid value itself."""

  low: float
  high: float = math.inf
  low_open: bool = False
  high_open: bool = False
  special: float | None = None  # valid too, with a meaning of its own

  def __contains__(self, value: float) -> bool:
    if value == self.special:
      return True
    above = value > self.low if self.low_open else value >= self.low
    below = value < self.high if self.high_open else value <= self.high
    return above and below and math.isfinite(value)

  def __str__(self) -> str:
    low = f"greater than {self.low}" if self.low_open else f"at least {self.low}"
    if self.special is not None:
      low = f"{self.special} or {low}"
    if self.high == math.inf:
      return low
    return f"{low} and {'less than' if self.high_open else 'at most'} {self.high}"

  def nearest(self, value: float) -> float | None:
    """The nearest valid value, None where there is none (an open end, or not a number)."""
    if math.isnan(value):
      return None
    if value >= self.high:
      return None if self.high_open or self.high == math.inf else self.high
    if self.special is not None and value - self.special < self.low - value:
      return self.special
    return None if self.low_open else self.low


COUNT = Range(1)
COUNT_OR_0 = Range(0)
POSITIVE = Range(0, low_open=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
PROBABILITY = Range(0, 1, high_open=True)


@dataclasses.dataclass(frozen=True)
class Field:
  """A field that not every value of its type is valid for."""

  default: Any
  valid: tuple | Range  # choices, or an interval


def defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The default of each field of a tree: `Field`s and plain defaults, in groups that are dicts."""
  values = {}
  for name, entry in fields.items():
    if isinstance(entry, Mapping):
      values[name] = defaults(entry)
    else:
      values[name] = entry.default if isinstance(entry, Field) else entry
  return values


def valid_values(fields: Mapping[str, Any], kind: type, prefix: str = "") -> dict[str, Any]:
  """Dotted name -> valid values, of the fields of a tree whose valid values are of a kind."""
  found = {}
  for name, entry in fields.items():
    if isinstance(entry, Mapping):
      found |= valid_values(entry, kind, f"{prefix}{name}.")
    elif isinstance(entry, Field) and isinstance(entry.valid, kind):
      found[f"{prefix}{name}"] = entry.valid
  return found


def hint(value: object, valid: Iterable[object]) -> str:
  """Returns a text that names the valid entry nearest to the value, and all of them."""
  names = [str(entry) for entry in valid]
  nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
  return f"nearest valid: {nearest!r}; valid: {', '.join(names)}"


def field_names(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
  """Returns the dotted names of all fields that hold a value, in alphabetical order."""
  names = []
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      names += field_names(value, f"{prefix}{key}.")
    else:
      names.append(f"{prefix}{key}")
  return names


def check(config: ml_collections.ConfigDict, valid: Mapping[str, tuple | Range]) -> None:
  """Checks values one by one.

  Args:
    config: config to check.
    valid: dotted name of each field -> its valid values.

  Raises:
    ValueError: a field is missing, or names the first wrong one.
  """
  missing = sorted(set(valid) - set(field_names(config)))
  if missing:
    raise ValueError(f"config.{missing[0]} is missing; build the config on common.get_config()")
  for field, values in valid.items():
    value = config[field]
    if value in values:
      continue
    if isinstance(values, tuple):
      raise ValueError(f"config.{field}={value!r} is unknown; {hint(value, values)}")
    nearest = values.nearest(value)
    proposal = "" if nearest is None else f"; nearest valid: {nearest}"
    raise ValueError(f"config.{field}={value!r} must be {values}{proposal}")
