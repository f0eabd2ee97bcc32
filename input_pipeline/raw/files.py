"""Lists the image and label files of a split and pairs them by file stem."""

import dataclasses
from collections.abc import Sequence

from absl import logging
from etils import epath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_NUM_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Pair:
  """One image file and its label file."""

  stem: str
  image: epath.Path
  label: epath.Path


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
    folder: its subfolders are not searched.
    suffixes: file name endings to list, lower case.
    expected: what the data set is made of, for the error message.

  Returns:
    Stem -> path.

  Raises:
    FileNotFoundError: if there is no such folder or no such file in it.
    ValueError: if two files have the same stem.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder} is missing: {expected}.")
  files: dict[str, epath.Path] = {}
  for path in sorted(folder.iterdir()):
    if path.name.startswith(".") or path.suffix.lower() not in suffixes:
      continue
    if path.stem in files:
      raise ValueError(
        f"{files[path.stem]} and {path} have the same stem {path.stem!r}: images and labels are"
        " matched by it, so rename one."
      )
    files[path.stem] = path
  if not files:
    raise FileNotFoundError(
      f"{folder} holds no {', '.join(suffixes)} files (subfolders are not searched): every split"
      " needs at least one image with its label."
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
    labels: folder of the labels, with the stems of the images.
    image_suffixes: file name endings of the images, lower case.
    expected: what the data set is made of, for the error message.

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
  remedy = "Images and labels are matched by file stem: add the missing files or remove these."
  if lonely := [str(path) for stem, path in image_of.items() if stem not in label_of]:
    raise ValueError(several(lonely, f"images without a label PNG in {labels}", remedy))
  if lonely := [str(path) for stem, path in label_of.items() if stem not in image_of]:
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
