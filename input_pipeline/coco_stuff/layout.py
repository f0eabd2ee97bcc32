"""The published files of COCO-Stuff.

`images/{train2017,val2017}` and `stuffthingmaps_trainval2017/{train2017,val2017}`; the label PNGs
hold the id of the class minus one, and 255 where there is none.
"""

from etils import epath

from input_pipeline import class_tables
from input_pipeline.raw import contents, files, label_values, published

NAME = "coco_stuff"
_IMAGES, _LABELS = "images", "stuffthingmaps_trainval2017"
_FOLDERS = {"train": "train2017", "val": "val2017"}


def read_contents(raw_dir: epath.PathLike) -> contents.Contents:
  """Lists the images and labels.

  Args:
    raw_dir: directory that holds images and stuffthingmaps_trainval2017.

  Returns:
    What to store.

  Raises:
    FileNotFoundError: if a folder is missing or empty.
    ValueError: if images and labels do not pair up, or labels can be read in more than one way.
  """
  raw_dir = published.top_folder(raw_dir, NAME, _IMAGES, _LABELS)
  expected = f"{_IMAGES} and {_LABELS} have train2017/ and val2017/"
  pairs = {
    split: files.list_pairs(
      raw_dir / _IMAGES / folder, raw_dir / _LABELS / folder, published.IMAGE_SUFFIXES, expected
    )
    for split, folder in _FOLDERS.items()
  }
  metadata = class_tables.load_class_table(NAME).metadata
  raw_values = [dataset_id - 1 for dataset_id in metadata.dataset_ids]
  values = label_values.LabelValues(metadata, raw_values, ignored=(255,))
  read = published.pair_reader(values, pairs)
  return published.published_contents(NAME, raw_dir, pairs, read)
