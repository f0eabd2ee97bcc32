"""The published files of ADE20K.

`ADEChallengeData2016/{images,annotations}/{training,validation}`; in the label PNGs, 0 is no class
and 1..150 are the classes.
"""

from etils import epath

from input_pipeline import class_tables
from input_pipeline.raw import contents, files, label_values, readers

RAW_FOLDERS = ("ADEChallengeData2016",)
(_TOP,) = RAW_FOLDERS
_FOLDERS = {"train": "training", "val": "validation"}


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
  expected = f"{_TOP} has images/ and annotations/ with training/ and validation/ in each"
  pairs = {
    split: files.list_pairs(
      raw_dir / _TOP / "images" / folder,
      raw_dir / _TOP / "annotations" / folder,
      readers.IMAGE_SUFFIXES,
      expected,
    )
    for split, folder in _FOLDERS.items()
  }
  metadata = table.metadata
  values = label_values.LabelValues(metadata, metadata.dataset_ids, ignored=(0,))
  return readers.pair_contents(table, raw_dir, pairs, values)
