"""Lists the image and label files of a split and pairs them by name, folders included."""

import dataclasses
from collections.abc import Sequence

from absl import logging
from etils import epath

from input_pipeline import file_access

_NUM_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Pair:
  """One image file and its label file.

  Attributes:
    stem: path of the image below the folder of its split, without the ending.
    image: the image file.
    label: the label file.
  """

  stem: str
  image: epath.Path
  label: epath.Path

  @property
  def file_name(self) -> str:
    """Path of the image below the folder of its split."""
    return self.stem + self.image.suffix


def several(problems: Sequence[str], noun: str, remedy: str) -> str:
  """One message for many offending files: the first five and how many there are."""
  lines = [f"{len(problems)} {noun}:", *(f"  {problem}" for problem in problems[:_NUM_LISTED])]
  if len(problems) > _NUM_LISTED:
    lines.append(f"  ... and {len(problems) - _NUM_LISTED} more")
  return "\n".join([*lines, remedy])


def list_files(
  folder: epath.Path, suffixes: tuple[str, ...], expected: str
) -> dict[str, epath.Path]:
  """Lists the files of a folder by stem, sorted; hidden and other files are left out.

  Args:
    folder: folder of the files; folders in it are searched too.
    suffixes: file name endings to list, lower case.
    expected: files that the data set is made of, for the error message.

  Returns:
    Stem, which is the path below `folder` without the ending -> path.

  Raises:
    FileNotFoundError: if there is no such folder or no such file in it.
    ValueError: if two files have the same stem, or a folder cannot be listed.
  """
  if not folder.is_dir():
    why = file_access.problem(folder) if file_access.exists(folder) else ""
    name = file_access.printable(folder)
    raise FileNotFoundError(f"{name} is missing{f' ({why})' if why else ''}: {expected}.")
  files: dict[str, epath.Path] = {}
  for path in file_access.walk(folder, suffixes):
    stem = path.relative_to(folder).with_suffix("").as_posix()
    if stem in files:
      raise ValueError(
        f"{files[stem]} and {path} have the same stem {stem!r}: images and labels are"
        " matched by it, so rename one."
      )
    files[stem] = path
  if not files:
    raise FileNotFoundError(
      f"{folder} holds no {', '.join(suffixes)} files, nor do the folders in it: every split needs"
      " at least one image with its label."
    )
  return files


def list_pairs(
  images: epath.Path,
  labels: epath.Path,
  image_suffixes: tuple[str, ...],
  expected: str,
) -> tuple[Pair, ...]:
  """Pairs the images of one folder with the label PNGs of another.

  Args:
    images: folder of the images.
    labels: folder of the labels, with the stems and subfolders of the images.
    image_suffixes: file name endings of the images, lower case.
    expected: files that the data set is made of, for the error message.

  Returns:
    The pairs, sorted by stem.

  Raises:
    FileNotFoundError: if a folder is missing or empty.
    ValueError: if an image has no label or a label no image.
  """
  image_of = list_files(images, image_suffixes, expected)
  label_of = list_files(labels, (".png",), expected)
  check_partners(image_of, label_of, images, labels)
  return tuple(Pair(stem, image_of[stem], label_of[stem]) for stem in sorted(image_of))


def check_partners(
  image_of: dict[str, epath.Path],
  label_of: dict[str, epath.Path],
  images: epath.Path,
  labels: epath.Path,
) -> None:
  """Raises a ValueError where an image of `images` has no label in `labels` or a label no image.

  Args:
    image_of: stem -> image.
    label_of: stem -> label, or one of the labels.
    images: folder of the images, for the message.
    labels: folder of the labels, for the message.
  """
  remedy = (
    "Images and labels are matched by the path below their folder, without the ending: add the"
    " missing files or remove these."
  )
  named = file_access.printable
  if lonely := [named(path) for stem, path in image_of.items() if stem not in label_of]:
    raise ValueError(several(lonely, f"images without a label PNG in {labels}", remedy))
  if lonely := [named(path) for stem, path in label_of.items() if stem not in image_of]:
    raise ValueError(several(lonely, f"labels without an image in {images}", remedy))


def warn_of_count(name: str, split: str, count: int, published: int) -> None:
  """Logs a warning if a split has another number of images than the published one."""
  if count != published:
    logging.warning(
      "%s %s has %d images, the published one %d: scores will not be comparable.",
      name,
      split,
      count,
      published,
    )
