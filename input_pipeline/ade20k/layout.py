"""The published files of ADE20K.

`ADEChallengeData2016/{images,annotations}/{training,validation}`; in the label PNGs, 0 is no class
and 1..150 are the classes.
"""

from etils import epath

from input_pipeline import class_tables
from input_pipeline.raw import contents, files, label_values, published

NAME = "ade20k"
_TOP = "ADEChallengeData2016"
_FOLDERS = {"train": "training", "val": "validation"}


def read_contents(raw_dir: epath.PathLike) -> contents.Contents:
  """Lists the images and labels.

  Args:
    raw_dir: directory that holds ADEChallengeData2016.

  Returns:
    What to store.

  Raises:
    FileNotFoundError: if a folder is missing or empty.
    ValueError: if images and labels do not pair up, or labels can be read in more than one way.
  """
  raw_dir = published.top_folder(raw_dir, NAME, _TOP)
  expected = f"{_TOP} has images/ and annotations/ with training/ and validation/ in each"
  pairs = {
    split: files.list_pairs(
      raw_dir / _TOP / "images" / folder,
      raw_dir / _TOP / "annotations" / folder,
      published.IMAGE_SUFFIXES,
      expected,
    )
    for split, folder in _FOLDERS.items()
  }
  metadata = class_tables.load_class_table(NAME).metadata
  values = label_values.LabelValues(metadata, metadata.dataset_ids, ignored=(0,))
  read = published.pair_reader(values, pairs)
  return published.published_contents(NAME, raw_dir, pairs, read)
