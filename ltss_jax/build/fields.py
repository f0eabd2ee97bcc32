"""What a dataclass of the library takes from the config under the same names."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def fields_of(cls: type, group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The entries of a group that a dataclass has a field for, as keyword arguments.

  So a field of both needs no line of its own where the dataclass is built. What the config calls
  otherwise, or holds in another form, is given beside them: `cls(**fields_of(cls, group) | {...})`.

  Args:
    cls: dataclass.
    group: group of the config, such as `config.model`.
    prefix: beginning of the config's names that the dataclass's names lack; entries without it are
      left out.
  """
  names = {field.name for field in dataclasses.fields(cls)}
  values = {
    name.removeprefix(prefix): value for name, value in group.items() if name.startswith(prefix)
  }
  return {name: value for name, value in values.items() if name in names}
