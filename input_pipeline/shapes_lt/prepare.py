"""Prepares shapes_lt on first use."""

from absl import logging
from etils import epath

from input_pipeline import prepared


def prepare_shapes_lt(data_dir: epath.PathLike) -> epath.Path:
  """Returns the prepared directory of shapes_lt; draws its scenes where they are not there.

  Args:
    data_dir: directory of all prepared data (local or gs://).

  Returns:
    The prepared directory, `data_dir`/shapes_lt/<version>.
  """
  # tfds takes a second to import, which the other data sets need not wait for.
  from input_pipeline.shapes_lt import shapes_lt_dataset_builder

  directory = epath.Path(data_dir) / "shapes_lt" / str(shapes_lt_dataset_builder.ShapesLt.VERSION)
  existed = directory.exists()  # what appears later is another process's complete work
  if prepared.missing_files(directory) and (not existed or prepared.make_room(directory)):
    logging.info("Preparing shapes_lt into %s.", directory)
    prepared.run_builder(shapes_lt_dataset_builder.ShapesLt(data_dir=epath.Path(data_dir)))
  return directory
