"""The published files of COCO-Stuff.

`images/{train2017,val2017}` and `stuffthingmaps_trainval2017/{train2017,val2017}`; the label PNGs
hold the id of the class minus one, and 255 where there is none.
"""

from etils import epath

from input_pipeline import class_tables
from input_pipeline.raw import contents, files, label_values, readers

RAW_FOLDERS = ("images", "stuffthingmaps_trainval2017")
_IMAGES, _LABELS = RAW_FOLDERS
_FOLDERS = {"train": "train2017", "val": "val2017"}


def read_contents(raw_dir: epath.Path, table: class_tables.ClassTable) -> contents.Contents:
  """Lists the images and labels.

  Args:
    raw_dir: directory that holds `RAW_FOLDERS`.
    table: class table of the data set.

  Returns:
    What to store.

  Raises:
    FileNotFoundError: if a folder is missing or empty.
    ValueError: if images and labels do not pair up, or labels can be read in more than one way.
  """
  expected = f"{_IMAGES} and {_LABELS} have train2017/ and val2017/"
  pairs = {
    split: files.list_pairs(
      raw_dir / _IMAGES / folder, raw_dir / _LABELS / folder, readers.IMAGE_SUFFIXES, expected
    )
    for split, folder in _FOLDERS.items()
  }
  metadata = table.metadata
  raw_values = [dataset_id - 1 for dataset_id in metadata.dataset_ids]
  values = label_values.LabelValues(metadata, raw_values, ignored=(255,))
  return readers.pair_contents(table, raw_dir, pairs, values)
