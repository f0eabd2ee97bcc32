"""From the label values of a published data set to class indices."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from input_pipeline import file_access, prepared
from input_pipeline.raw import label_history, record

_NUM_VALUES = 2**16


class LabelValues:
  """The label values that a data set's files may hold, and what they mean.

  Attributes:
    known: the values, for what tells how the files came about.
  """

  def __init__(
    self,
    metadata: prepared.ClassMetadata,
    raw_values: Sequence[int],
    ignored: Sequence[int] = (),
    *,
    ignore_unknown: bool = False,
  ):
    """Describes the values.

    Args:
      metadata: classes and ignore label to translate to.
      raw_values: value of every class in the files, below 65536 [C].
      ignored: values in the files that belong to no class.
      ignore_unknown: True to take all other values as ignored instead of as errors.
    """
    self._metadata = metadata
    self._dtype = record.label_dtype(metadata.ignore_label)
    self._table = np.full(_NUM_VALUES, metadata.ignore_label, self._dtype)
    self._table[list(raw_values)] = np.arange(metadata.num_classes)
    self._known = np.full(_NUM_VALUES, ignore_unknown)
    self._known[[*raw_values, *ignored]] = True
    is_class = np.isin(np.arange(_NUM_VALUES), raw_values)
    self.known = label_history.Known(is_class, self._known & ~is_class)
    self._words = (
      f"{min(raw_values)}..{max(raw_values)}; without a class: {', '.join(map(str, ignored))}"
    )

  def check(self, path: epath.Path, values: np.ndarray) -> None:
    """Raises a ValueError if a label map holds a value that is not in the data set's table.

    Args:
      path: the file, for the message.
      values: values in the file, uint8 or uint16 [H, W].
    """
    counts = np.bincount(values.ravel())  # [V]
    unknown = np.flatnonzero((counts > 0) & ~self._known[: len(counts)])
    if len(unknown):
      raise ValueError(
        f"{path}: label value {unknown[0]} ({counts[unknown[0]]} pixels; {len(unknown)} such values"
        f" in all) is not one that {self._metadata.name} has ({self._metadata.num_classes} classes"
        f" in {self._words})"
      )

  def make_record(
    self, file_name: str, image: record.RawImage, label: record.RawLabel
  ) -> record.Record:
    """Puts an image and the label of its file together.

    Args:
      file_name: path of the image below the folder of its split.
      image: the image file's content.
      label: the label file's content, with the values of the file.

    Returns:
      The bytes to store and the statistics.

    Raises:
      ValueError: if the sizes differ or the label holds a value that is not in the table.
    """
    file_access.check_name(image.path)
    record.check_size(label.path, label.values, image.path, image.size)
    self.check(label.path, label.values)
    translated = self._table[label.values]  # [H, W]
    data = record.encode_label(translated)
    counts = record.count_pixels(label.path, translated, self._metadata)
    return record.Record(file_name, image.data, data, image.size, counts, image.note)
