"""What a folder data set must look like, and what of it was seen.

- `images/{train,val}/STEM.{jpg,jpeg,png,bmp,tif,tiff,webp}`; folders are searched to any depth.
- `annotations/{train,val}/STEM.png`: one channel, 8 or 16 bit; the value is the class index.
- `classes.txt`: one class name a line; the first line is label 0.
- `flip_pairs.txt` (optional): classes that swap under a horizontal flip, two a line: two names with
  a tab between them, or, with a blank between them, two labels or two names without blanks. A name
  goes before a label of the same spelling.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Iterable

from etils import epath

from input_pipeline import file_access, prepared
from input_pipeline.raw import files
from input_pipeline.raw.files import Pair

# An ignore label that follows from the number of classes: see `resolve_ignore_label`.
BY_CLASSES = -1
# Part of the fingerprint: raise it when the preparation itself changes what it writes.
_FORMAT = 2
_STAT_THREADS = 32  # stat waits for the network where the folder lies in a bucket


@dataclasses.dataclass(frozen=True)
class Layout:
  """A folder data set that has everything in its place; the files are not read yet.

  Attributes:
    root: the folder.
    metadata: classes, ignore label and flip pairs.
    pairs: split name -> its files, sorted by file stem.
  """

  root: epath.Path
  metadata: prepared.ClassMetadata
  pairs: dict[str, tuple[Pair, ...]]


def read_layout(root: epath.PathLike, ignore_label: int) -> Layout:
  """Lists a folder data set and checks that it is complete.

  Args:
    root: the folder.
    ignore_label: label of the pixels that belong to no class, as for `read_classes`.

  Returns:
    The layout, its files in a fixed order.

  Raises:
    FileNotFoundError: if the folder, a subfolder or classes.txt is missing, or a split is empty.
    ValueError: if classes.txt, flip_pairs.txt or the ignore label is not valid, or images and
      labels do not pair up.
  """
  root = epath.Path(root)
  metadata = read_classes(root, ignore_label)
  pairs = {split: _list_pairs(root, split) for split in prepared.SPLITS}
  return Layout(root, metadata, pairs)


def read_classes(root: epath.PathLike, ignore_label: int) -> prepared.ClassMetadata:
  """Reads what the labels of a folder data set mean; its images and labels need not be there.

  Args:
    root: the folder.
    ignore_label: label of the pixels that belong to no class; no class index. `BY_CLASSES` leaves
      it to their number.

  Returns:
    The classes, with the ignore label that is meant.

  Raises:
    FileNotFoundError: if the folder or classes.txt is missing.
    ValueError: if classes.txt, flip_pairs.txt or the ignore label is not valid.
  """
  root = epath.Path(root)
  if not root.is_dir():
    raise FileNotFoundError(
      f"The data set folder {root} does not exist: give the folder that holds images/,"
      " annotations/ and classes.txt."
    )
  class_names = _read_class_names(root / "classes.txt")
  num_classes = len(class_names)
  if num_classes > 65535:
    raise ValueError(
      f"{root / 'classes.txt'} names {num_classes} classes: label maps of 16 bits hold at most"
      " 65535 beside the ignore label."
    )
  ignore_label = resolve_ignore_label(ignore_label, num_classes)
  if not num_classes <= ignore_label <= 65535:
    raise ValueError(
      f"The ignore label {ignore_label} is not possible for {root}: 0..{num_classes - 1} are the"
      f" {num_classes} classes of classes.txt, so choose one from {num_classes} to 65535"
      " (usual: 255 in 8-bit labels, 65535 in 16-bit labels) with --config.data.ignore_label=N"
      " (training) or --ignore_label=N (preparation)."
    )
  return prepared.ClassMetadata(
    name=root.name,
    class_names=class_names,
    dataset_ids=tuple(range(num_classes)),
    ignore_label=ignore_label,
    flip_pairs=_read_flip_pairs(root / "flip_pairs.txt", class_names),
  )


def resolve_ignore_label(ignore_label: int, num_classes: int) -> int:
  """The label that is meant: of 8 bits where all the classes leave one free, else of 16.

  Args:
    ignore_label: a label, which is returned, or `BY_CLASSES`.
    num_classes: C; labels 0..C-1 are the classes.

  Returns:
    For `BY_CLASSES` 255 with up to 255 classes, and 65535 with more.
  """
  if ignore_label != BY_CLASSES:
    return ignore_label
  return 255 if num_classes <= 255 else 65535


def _read_class_names(path: epath.Path) -> tuple[str, ...]:
  if not file_access.exists(path):
    raise FileNotFoundError(
      f"{path} is missing: write one class name a line; the first line is label 0."
    )
  names = file_access.read_lines(path)
  if len(names) < 2:
    raise ValueError(f"{path} names {len(names)} classes: at least two are needed, one a line.")
  first_line = {}
  for number, name in enumerate(names, start=1):
    if not name:
      raise ValueError(f"{path}, line {number} (label {number - 1}) is empty: give it a name.")
    if name in first_line:
      raise ValueError(
        f"{path}, line {number}: the class name {name!r} already stands in line {first_line[name]}:"
        " names must differ."
      )
    first_line[name] = number
  return tuple(names)


def _read_flip_pairs(path: epath.Path, class_names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
  if not file_access.exists(path):
    return ()
  label_of = {str(label): label for label in range(len(class_names))}
  label_of |= {name: label for label, name in enumerate(class_names)}  # a name goes first
  pairs, used = [], set()
  for number, line in enumerate(file_access.read_lines(path), start=1):
    if not line:
      continue
    fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
    unknown = [field for field in fields if field not in label_of]
    if unknown or len(fields) != 2:
      problem = f"{unknown[0]!r} is no class" if unknown else f"{len(fields)} entries"
      raise ValueError(
        f"{path}, line {number}: {problem} in {line!r}: write two classes of classes.txt, names"
        f" with a tab between them or labels 0..{len(class_names) - 1} with a blank between them."
      )
    first, second = (label_of[field] for field in fields)
    if first == second or used & {first, second}:
      raise ValueError(
        f"{path}, line {number}: {line!r} pairs a class with itself or one that has a partner"
        " already: each class can stand in one pair."
      )
    used |= {first, second}
    pairs.append((first, second))
  return tuple(pairs)


def _list_pairs(root: epath.Path, split: str) -> tuple[Pair, ...]:
  expected = "a folder data set has images/train, images/val, annotations/train and annotations/val"
  return files.list_pairs(
    root / "images" / split, root / "annotations" / split, file_access.IMAGE_SUFFIXES, expected
  )


def fingerprint(layout: Layout) -> str:
  """Digest of everything that the prepared data depends on.

  File contents stand in by size and modification time (seconds), so that an unchanged folder is
  recognised without reading it.

  Returns:
    64 hexadecimal digits.
  """
  paths = [path for split in layout.pairs.values() for path in _paths(split)]
  with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
    stats = list(pool.map(_size_and_time, paths))
  record = {
    "format": _FORMAT,
    "metadata": dataclasses.asdict(layout.metadata),
    "files": [
      (str(path.relative_to(layout.root)), *stat) for path, stat in zip(paths, stats, strict=True)
    ],
  }
  return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _size_and_time(path: epath.Path) -> tuple[int | None, int | None]:
  """Nothing of what is gone or a link to nowhere, which the preparation will name."""
  try:
    stat = path.stat()
  except OSError:
    return None, None
  return stat.length, stat.mtime


def _paths(pairs: Iterable[Pair]) -> Iterable[epath.Path]:
  for pair in pairs:
    yield pair.image
    yield pair.label
