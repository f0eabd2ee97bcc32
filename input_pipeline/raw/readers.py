"""What the readers of the published data sets share."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from input_pipeline import class_tables, prepared
from input_pipeline.raw import files, label_history, label_values, record
from input_pipeline.raw.contents import Contents

IMAGE_SUFFIXES = (".jpg",)


def make_contents(
  table: class_tables.ClassTable,
  raw_dir: epath.Path,
  items: dict[str, Sequence[Any]],
  read: Callable[[Any], record.Record],
) -> Contents:
  """Describes a published data set for the builder; warns of a number of images that differs.

  Args:
    table: class table of the data set.
    raw_dir: directory that holds the published files.
    items: split name -> what `read` takes.
    read: reads one example.

  Returns:
    The contents, with the classes of the class table.
  """
  published = {"train": table.num_train_images, "val": table.num_val_images}
  for split in prepared.SPLITS:
    files.warn_of_count(table.name, split, len(items[split]), published[split])
  return Contents(
    title=table.name,
    root=str(raw_dir),
    description=f"The published data set {table.name}.",
    metadata=table.metadata,
    items=items,
    read=read,
    note={"raw_dir": str(raw_dir)},
  )


def pair_contents(
  table: class_tables.ClassTable,
  raw_dir: epath.Path,
  pairs: dict[str, tuple[files.Pair, ...]],
  values: label_values.LabelValues,
) -> Contents:
  """Describes a published data set of images and labels of one channel.

  A JPEG that ends too early is read as far as it goes.

  Args:
    table: class table of the data set.
    raw_dir: directory that holds the published files.
    pairs: split name -> its files; the labels decide together what their stored numbers mean.
    values: label values of the data set.

  Returns:
    The contents.

  Raises:
    ValueError: if the labels can be read in more than one way.
  """
  labels = [pair.label for split in pairs.values() for pair in split]
  history = label_history.find_history(labels, values.known)

  def read(pair: files.Pair) -> record.Record:
    image = record.read_image(pair.image, mend_truncated=True)
    label = record.read_label(pair.label, only_8_bit=True, history=history)
    return values.make_record(pair.file_name, image, label)

  return make_contents(table, raw_dir, pairs, read)
