"""The published files of MHP-v2.

`LV-MHP-v2/{train_img,val_img}` with the labels of all persons merged in `{train_seg,val_seg}` (one
PNG an image, the first channel where it has three), or, where a split has no such folder, one PNG a
person in `{train_parsing,val_parsing}`: `<image>_<n>_<i>.png`, person i of n. Value = class, 0..58.
"""

import dataclasses
import re

import numpy as np
from etils import epath

from input_pipeline import class_tables
from input_pipeline.raw import contents, files, label_history, label_values, readers, record

RAW_FOLDERS = ("LV-MHP-v2",)
(_TOP,) = RAW_FOLDERS
_SPLITS = ("train", "val")
# The left and right classes swap under a horizontal flip.
FLIP_PAIRS = ((5, 6), (7, 8), (22, 23), (24, 25), (26, 27), (28, 29), (30, 31), (32, 33))
_PERSON = re.compile(r"(.+)_(\d+)_(\d+)")
_EXPECTED = (
  f"{_TOP} has train_img/ and val_img/ with train_seg/ and val_seg/ (merged labels) or"
  " train_parsing/ and val_parsing/ (one label a person)"
)


@dataclasses.dataclass(frozen=True)
class Example:
  """An image with one merged label, or with the labels of its persons in their order."""

  file_name: str
  image: epath.Path
  labels: tuple[epath.Path, ...]


def read_contents(raw_dir: epath.Path, table: class_tables.ClassTable) -> contents.Contents:
  """Lists the images and labels.

  Args:
    raw_dir: directory that holds `RAW_FOLDERS`.
    table: class table of the data set.

  Returns:
    What to store.

  Raises:
    FileNotFoundError: if a folder is missing or empty.
    ValueError: if images and labels do not pair up, a person's label is missing, or labels can be
      read in more than one way.
  """
  examples = {split: _list_examples(raw_dir / _TOP, split) for split in _SPLITS}
  metadata = table.metadata
  values = label_values.LabelValues(metadata, metadata.dataset_ids, ignored=(255,))
  labels = [path for split in examples.values() for example in split for path in example.labels]
  history = label_history.find_history(labels, values.known)

  def read(example: Example) -> record.Record:
    image = record.read_image(example.image, mend_truncated=True)
    labels = [_read_label(path, history) for path in example.labels]
    if len(labels) == 1:
      return values.make_record(example.file_name, image, labels[0])
    for label in labels:
      record.check_size(label.path, label.values, image.path, image.size)
      values.check(label.path, label.values)  # of the merged label it would name another file
    return values.make_record(example.file_name, image, merge_persons(labels))

  return readers.make_contents(table, raw_dir, examples, read)


def _list_examples(top: epath.Path, split: str) -> tuple[Example, ...]:
  images, merged = top / f"{split}_img", top / f"{split}_seg"
  if merged.is_dir():
    pairs = files.list_pairs(images, merged, readers.IMAGE_SUFFIXES, _EXPECTED)
    return tuple(Example(pair.file_name, pair.image, (pair.label,)) for pair in pairs)
  parsing = top / f"{split}_parsing"
  image_of = files.list_files(images, readers.IMAGE_SUFFIXES, _EXPECTED)
  persons_of = _group_persons(files.list_files(parsing, (".png",), _EXPECTED))
  first_of = {stem: paths[0] for stem, paths in persons_of.items()}
  files.check_partners(image_of, first_of, images, parsing)
  pairs = [files.Pair(stem, image_of[stem], first_of[stem]) for stem in sorted(image_of)]
  return tuple(Example(pair.file_name, pair.image, persons_of[pair.stem]) for pair in pairs)


def _group_persons(label_of: dict[str, epath.Path]) -> dict[str, tuple[epath.Path, ...]]:
  """Image stem -> the labels of its persons, in the order of their numbers."""
  persons: dict[str, dict[int, epath.Path]] = {}
  total: dict[str, int] = {}
  for stem, path in label_of.items():
    match = _PERSON.fullmatch(stem)
    if match is None:
      raise ValueError(f"{path}: the name is not <image>_<number of persons>_<person>.png")
    image, number, person = match[1], int(match[2]), int(match[3])
    if total.setdefault(image, number) != number:
      raise ValueError(f"{path}: other files of the image say that it has {total[image]} persons")
    persons.setdefault(image, {})[person] = path
  for image, found in persons.items():
    if len(found) != total[image]:
      names = ", ".join(path.name for path in sorted(found.values()))
      raise ValueError(
        f"{min(found.values())}: the image has {total[image]} persons by this name, but"
        f" {len(found)} labels: {names}. Bring the missing ones, or remove image and labels."
      )
  return {image: tuple(found[i] for i in sorted(found)) for image, found in persons.items()}


def _read_label(path: epath.Path, history: label_history.History) -> record.RawLabel:
  if not record.is_rgb(path):
    return record.read_label(path, only_8_bit=True, history=history)
  first_channel = np.ascontiguousarray(record.read_rgb_label(path)[..., 0])  # [H, W]
  return record.RawLabel(path, first_channel)


def merge_persons(labels: list[record.RawLabel]) -> record.RawLabel:
  """Merges the labels of several persons: where they overlap, the last one counts.

  Args:
    labels: one a person, all of one shape [H, W]; 0 is not the person.

  Returns:
    The label of the image; its path is that of the first person.
  """
  merged = labels[0].values.copy()
  for label in labels[1:]:
    np.copyto(merged, label.values, where=label.values > 0)
  return record.RawLabel(labels[0].path, merged)
