"""The note beside prepared data that says what it was made from."""

import json
from typing import Any

from etils import epath

from input_pipeline import prepared

_FILE = "source.json"


def write_note(directory: epath.PathLike, note: dict[str, Any]) -> None:
  """Writes the note, plain JSON values, into a prepared directory."""
  (epath.Path(directory) / _FILE).write_text(json.dumps(note, indent=1) + "\n")


def read_note(directory: epath.PathLike) -> dict[str, Any]:
  """Returns the note of a prepared directory; empty where there is none.

  Raises:
    ValueError: if it is damaged; names the file.
  """
  path = epath.Path(directory) / _FILE
  return prepared.read_json(path) if path.exists() else {}
