"""Checkpoints in several files, as Hugging Face's libraries save large ones.

`model.safetensors.index.json` says which of `model-00001-of-00002.safetensors` and its like holds
which name.
"""

import json
import pathlib
import re

# What `from_pretrained` looks for in a folder, in its order.
IN_A_FOLDER = (
  "model.safetensors",
  "model.safetensors.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
)
INDEX = ".index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?P<suffix>\.\w+)")


def find(folder: pathlib.Path) -> pathlib.Path:
  """The checkpoint file, or the index of one, in a folder that `save_pretrained` wrote.

  Raises:
    ValueError: there is none.
  """
  for name in IN_A_FOLDER:
    if (folder / name).is_file():
      return folder / name
  raise ValueError(
    f"{folder} is a folder without {' or '.join(IN_A_FOLDER)}; give the checkpoint file in it"
  )


def index_of(name: str) -> str | None:
  """Name of the index of one shard of several; None for the name of anything else."""
  match = _SHARD.fullmatch(name)
  if match is None or int(match["parts"]) == 1:
    return None
  return f"{match['stem']}{match['suffix']}{INDEX}"


def require_whole(path: pathlib.Path) -> None:
  """Refuses one shard alone, which is known by its name.

  Raises:
    ValueError: the file is one of several.
  """
  index_name = index_of(path.name)
  if index_name is None:
    return
  match, index = _SHARD.fullmatch(path.name), path.with_name(index_name)
  advice = f"give {index}"
  if not index.is_file():
    advice = f"fetch all of them and {index.name}, and give that"
  raise ValueError(
    f"{path} is part {int(match['part'])} of {int(match['parts'])} of a checkpoint; {advice}"
  )


def read_index(path: pathlib.Path) -> dict[str, list[str]]:
  """Reads an index, beside which all its files must lie.

  Args:
    path: the JSON file.

  Returns:
    File name -> the names that it holds.

  Raises:
    ValueError: it is damaged or no index, or files are missing.
  """
  found = places(path)
  missing = [file for file in found if not path.with_name(file).is_file()]
  if missing:
    raise ValueError(
      f"{path} names {len(found)} files, of which {len(missing)} are not beside it:"
      f" {', '.join(missing)}; fetch them into {path.parent}"
    )
  return found


def places(path: pathlib.Path) -> dict[str, list[str]]:
  """Reads an index, whether its files are there or not.

  Args:
    path: the JSON file.

  Returns:
    File name, without a folder -> the names that it holds.

  Raises:
    ValueError: it is damaged or no index.
  """
  try:
    content = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is no index of a checkpoint: {error}; fetch it again") from error
  places_of = content.get("weight_map") if isinstance(content, dict) else None
  if not isinstance(places_of, dict) or not places_of:
    raise ValueError(
      f"{path} is JSON without the 'weight_map' of an index; give the checkpoint file, or its index"
    )
  shards: dict[str, list[str]] = {}
  for name, file in places_of.items():
    if not isinstance(file, str) or pathlib.PurePath(file).name != file or not file:
      raise ValueError(f"{path} places {name} in {file!r}, which is no name of a file beside it")
    shards.setdefault(file, []).append(name)
  return shards
