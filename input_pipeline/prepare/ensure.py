"""Finds the prepared data of a data set by name, and prepares it where that is possible."""

from etils import epath

from input_pipeline import datasets
from input_pipeline.prepare import published


def ensure_prepared(
  name: str, data_dir: epath.PathLike, root: str = "", ignore_label: int = -1
) -> epath.Path:
  """Returns the directory of a data set's prepared data.

  `shapes_lt` and `folder` are prepared on first use, `folder` also when the folder has changed. The
  published data sets have to be obtained from their owners and are only looked up.

  Args:
    name: one of `datasets.SPECS`.
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
  spec = datasets.find_spec(name)
  if root and not spec.takes_root:
    raise ValueError(
      f"The data set {name!r} takes no root, got {root!r}: a root belongs to the data set 'folder'."
    )
  if spec.prepare is None:
    return published.find_published(name, data_dir)
  return spec.prepare(data_dir, root, ignore_label)
