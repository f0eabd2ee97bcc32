"""Finds the prepared data of a data set by name, and prepares it where that is possible."""

import re

from absl import logging
from etils import epath

from input_pipeline import class_tables, prepared
from input_pipeline.folder import prepare as folder_prepare

NAMES = ("shapes_lt", "folder", *class_tables.NAMES)
_COCO = "images and stuffthingmaps_trainval2017"
_RAW_FOLDERS = {
  "ade20k": "ADEChallengeData2016",
  "ade20k_full": "ADE20K_2021_17_01",
  "coco_stuff": _COCO,
  "coco_stuff_lt": _COCO,
  "mhp_v2": "LV-MHP-v2",
  "mhp_v2_lt": "LV-MHP-v2",
}


def check_name(name: str) -> None:
  """Raises a ValueError with the nearest valid name if there is no data set `name`."""
  if name not in NAMES:
    raise ValueError(
      f"There is no data set {name!r}; did you mean {class_tables.nearest_name(name, NAMES)!r}?"
      f" Data sets: {', '.join(NAMES)}."
    )


def ensure_prepared(
  name: str, data_dir: epath.PathLike, root: str = "", ignore_label: int = -1
) -> epath.Path:
  """Returns the directory of a data set's prepared data.

  `shapes_lt` and `folder` are prepared on first use, `folder` also when the folder has changed. The
  published data sets have to be obtained from their owners and are only looked up.

  Args:
    name: one of `NAMES`.
    data_dir: directory of all prepared data (local or gs://).
    root: the user's folder; for the data set `folder` only.
    ignore_label: label of the pixels that belong to no class, -1: by their number; for the data set
      `folder` only.

  Returns:
    The prepared directory, for `prepared.open_source` and its neighbours.

  Raises:
    FileNotFoundError: if the data is not there and cannot be made.
    ValueError: if there is no such data set, or a folder is not usable.
  """
  check_name(name)
  if name == "folder":
    if not root:
      raise ValueError(
        "The data set 'folder' needs its root, the folder that holds images/, annotations/ and"
        " classes.txt: --config.data.root=DIR (training) or --root=DIR (preparation)."
      )
    return folder_prepare.prepare_folder(data_dir, root, ignore_label)
  if root:
    raise ValueError(
      f"The data set {name!r} takes no root, got {root!r}: a root belongs to the data set 'folder'."
    )
  if name == "shapes_lt":
    return _prepare_shapes_lt(data_dir)
  return _find_published(name, data_dir)


def _prepare_shapes_lt(data_dir: epath.PathLike) -> epath.Path:
  # tfds takes a second to import, which the other data sets need not wait for.
  from input_pipeline.shapes_lt import shapes_lt_dataset_builder

  directory = epath.Path(data_dir) / "shapes_lt" / str(shapes_lt_dataset_builder.ShapesLt.VERSION)
  existed = directory.exists()  # what appears later is another process's complete work
  if prepared.missing_files(directory) and (not existed or prepared.make_room(directory)):
    logging.info("Preparing shapes_lt into %s.", directory)
    prepared.run_builder(shapes_lt_dataset_builder.ShapesLt(data_dir=epath.Path(data_dir)))
  return directory


def _find_published(name: str, data_dir: epath.PathLike) -> epath.Path:
  directory, problems = find_complete(name, data_dir)
  if directory is None:
    raise FileNotFoundError(
      f"The data set {name} is not prepared: no complete {epath.Path(data_dir) / name}/<version>/."
      f"{problems} Obtain the files from their owner (docs/data.md has the page and the tree), then"
      f" run `python -m input_pipeline.prepare {name} --raw_dir=DIR --data_dir={data_dir}` with DIR"
      f" the directory that holds {_RAW_FOLDERS[name]}."
    )
  return directory


def find_complete(name: str, data_dir: epath.PathLike) -> tuple[epath.Path | None, str]:
  """Looks for the newest complete version of a published data set.

  Args:
    name: of the data set.
    data_dir: directory of all prepared data.

  Returns:
    (its directory, or None where there is none; one sentence per incomplete version).
  """
  parent = epath.Path(data_dir) / name
  versions = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
  versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
  versions.sort(key=lambda path: tuple(map(int, path.name.split("."))))
  problems = ""
  for directory in reversed(versions):
    missing = prepared.missing_files(directory)
    if not missing:
      return directory, problems
    problems += f" {directory} is not complete, it lacks {', '.join(missing)}."
  return None, problems
