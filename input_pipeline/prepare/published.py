"""Finds the prepared data of the published data sets, and makes them of their owners' files."""

import re

from absl import logging
from etils import epath

from input_pipeline import datasets, file_access, prepared
from input_pipeline.raw import contents


def prepare_published(name: str, raw_dir: str, data_dir: epath.PathLike) -> epath.Path:
  """Returns the prepared directory of a published data set; prepares it where it is not there.

  Args:
    name: a published data set that is not part of another one.
    raw_dir: directory that holds the published files; "" where the data are prepared already.
    data_dir: directory of all prepared data (local or gs://).

  Returns:
    The prepared directory, `data_dir`/name/version.

  Raises:
    FileNotFoundError: if the data are not prepared and no raw_dir is given, or files are missing.
    ValueError: if files are not usable; names them.
  """
  target = epath.Path(data_dir) / name / contents.VERSION
  existed = target.exists()  # what appears later is another process's complete work
  directory, _ = find_complete(name, data_dir)
  if directory is not None:
    logging.info("%s is prepared: using %s.", name, directory)
    return directory
  if not raw_dir:
    return find_published(name, data_dir)  # which says what to do
  spec = datasets.find_spec(name)
  raw = spec.layout.read_contents(_checked_raw_dir(spec, raw_dir), spec.class_table)
  if existed and not prepared.make_room(target):
    return target
  # tfds takes a second to import, which a start with prepared data need not wait for.
  from input_pipeline.raw import builder

  return builder.build(name, raw, data_dir)


def _checked_raw_dir(spec: datasets.DatasetSpec, raw_dir: str) -> epath.Path:
  """The directory that the user gave, where the published folders are in it."""
  path, folders = epath.Path(raw_dir).expanduser(), spec.layout.RAW_FOLDERS
  file_access.check_name(path)
  for folder in folders:
    if not (path / folder).is_dir():
      raise FileNotFoundError(
        f"{path / folder} is missing: --raw_dir for {spec.name} is the directory that holds"
        f" {' and '.join(folders)}. docs/data.md has the whole tree and where it is obtained."
      )
  return path


def find_published(name: str, data_dir: epath.PathLike) -> epath.Path:
  """Returns the prepared directory of a published data set.

  Args:
    name: a published data set.
    data_dir: directory of all prepared data (local or gs://).

  Raises:
    FileNotFoundError: if it is not prepared; says how it is.
  """
  directory, problems = find_complete(name, data_dir)
  if directory is None:
    whole = datasets.find_spec(datasets.find_spec(name).part_of or name)
    raise FileNotFoundError(
      f"The data set {name} is not prepared: no complete {epath.Path(data_dir) / name}/<version>/."
      f"{problems} Obtain the files from their owner (docs/data.md has the page and the tree), then"
      f" run `python -m input_pipeline.prepare {name} --raw_dir=DIR --data_dir={data_dir}` with DIR"
      f" the directory that holds {' and '.join(whole.layout.RAW_FOLDERS)}."
    )
  return directory


def find_complete(name: str, data_dir: epath.PathLike) -> tuple[epath.Path | None, str]:
  """Looks for the newest complete version of a published data set.

  Args:
    name: name of the data set.
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
