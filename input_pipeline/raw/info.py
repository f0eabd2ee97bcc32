"""What tfds keeps about a data set of this project, with the checksums that end its preparation."""

import tensorflow_datasets as tfds
from etils import epath

from input_pipeline import prepared


class Info(tfds.core.DatasetInfo):
  """Writes the sums of all files but the records after its own, which tfds asks for last."""

  def write_to_directory(self, dataset_info_dir: epath.PathLike, all_metadata: bool = True) -> None:
    super().write_to_directory(dataset_info_dir, all_metadata)
    prepared.write_sums(dataset_info_dir)
