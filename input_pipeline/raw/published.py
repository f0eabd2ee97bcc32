"""What the readers of the published data sets share."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from input_pipeline import class_tables, file_access, prepared
from input_pipeline.raw import files, label_history, label_values, record
from input_pipeline.raw.contents import Contents

IMAGE_SUFFIXES = (".jpg",)


def published_contents(
  name: str,
  raw_dir: epath.Path,
  items: dict[str, Sequence[Any]],
  read: Callable[[Any], record.Record],
) -> Contents:
  """Describes a published data set for the builder; warns of a number of images that differs.

  Args:
    name: name of the data set.
    raw_dir: directory that holds the published files.
    items: split name -> what `read` takes.
    read: reads one example.

  Returns:
    The contents, with the classes of the class table.
  """
  table = class_tables.load_class_table(name)
  published = {"train": table.num_train_images, "val": table.num_val_images}
  for split in prepared.SPLITS:
    files.warn_of_count(name, split, len(items[split]), published[split])
  return Contents(
    title=name,
    root=str(raw_dir),
    description=f"The published data set {name}.",
    metadata=table.metadata,
    items=items,
    read=read,
    note={"raw_dir": str(raw_dir)},
  )


def top_folder(raw_dir: epath.PathLike, name: str, *folders: str) -> epath.Path:
  """Returns the raw directory of a data set, where the published folders are in it.

  Args:
    raw_dir: directory that the user gave.
    name: name of the data set.
    *folders: folders that the directory must hold.

  Raises:
    FileNotFoundError: if one of the folders is not there.
  """
  raw_dir = epath.Path(raw_dir).expanduser()
  file_access.check_name(raw_dir)
  for folder in folders:
    if not (raw_dir / folder).is_dir():
      raise FileNotFoundError(
        f"{raw_dir / folder} is missing: --raw_dir for {name} is the directory that holds"
        f" {' and '.join(folders)}. docs/data.md has the whole tree and where it is obtained."
      )
  return raw_dir


def pair_reader(
  values: label_values.LabelValues, pairs: dict[str, tuple[files.Pair, ...]]
) -> Callable[[files.Pair], record.Record]:
  """Returns what reads an image and its label of one channel, for `published_contents`.

  A JPEG that ends too early is read as far as it goes.

  Args:
    values: label values of the data set.
    pairs: split name -> its files, which decide what their stored numbers mean.

  Raises:
    ValueError: if the labels can be read in more than one way.
  """
  labels = [pair.label for split in pairs.values() for pair in split]
  history = label_history.find_history(labels, values.known)

  def read(pair: files.Pair) -> record.Record:
    image = record.read_image(pair.image, mend_truncated=True)
    label = record.read_label(pair.label, only_8_bit=True, history=history)
    return values.make_record(pair.file_name, image, label)

  return read
