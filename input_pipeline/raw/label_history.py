"""What the values of label PNGs mean, where a lossless optimizer may have rewritten them.

To an optimizer of PNGs a label is a picture: what looks alike is alike. Grey values of 8 bits that
are multiples of 255, 85 or 17 it stores in 1, 2 or 4 bits, so that {0, 255} reads {0, 1}; those of
16 bits that are multiples of 257 in 8; and few grey values as a palette of greys, whose indices
differ from them. But such files are also written by programs that mean the stored numbers.

A data set has one history. Three are possible: the numbers are meant as they are stored; they are
pictures of 8-bit labels; or of 16-bit ones. What is found in the files refutes all but one of them,
or else the preparation ends with a message. Palettes with colours always mean the index.
"""

import concurrent.futures
import dataclasses
import enum
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from input_pipeline import file_access
from input_pipeline.raw import files, label_png

_THREADS = 32  # a file in a bucket makes its reader wait
_REMEDY = (
  "Save them as grey PNGs of 8 or 16 bits whose values are the classes, and keep PNG optimizers"
  " away from labels; docs/data.md says how."
)


class History(enum.Enum):
  """How the numbers that a label PNG stores came about."""

  AS_STORED = "as stored"
  FROM_8_BITS = "as grey values of 8 bits"
  FROM_16_BITS = "as grey values of 16 bits"


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
  """Which label values a data set has.

  Attributes:
    classes: bool [65536], values that are a class.
    others: bool [65536], values of pixels without a class.
    histories: those that are possible.
  """

  classes: np.ndarray
  others: np.ndarray
  histories: tuple[History, ...] = (History.AS_STORED, History.FROM_8_BITS)

  @classmethod
  def of(cls, num_classes: int, ignore_label: int) -> "Known":
    """The values of a data set that stores the class indices."""
    values = np.arange(2**16)
    histories = tuple(History) if ignore_label > 255 else cls.histories
    return cls(values < num_classes, values == ignore_label, histories)


@dataclasses.dataclass(frozen=True, eq=False)
class _Label:
  """What is known of one label file; `used` are the stored numbers where they are in doubt."""

  path: epath.Path
  header: label_png.Header
  used: np.ndarray | None

  def values(self, history: History) -> np.ndarray:
    return meaning(self.header, history)[self.used]


def meaning(header: label_png.Header, history: History) -> np.ndarray:
  """Label value of every number that a PNG of one channel can store.

  Args:
    header: header of the PNG.
    history: label history of the data set.

  Returns:
    uint16 [2 ** depth].
  """
  numbers = np.arange(2**header.depth, dtype=np.uint32)
  values = numbers
  is_grey, greys = header.colour_type == label_png.GREY, header.greys
  if history is not History.AS_STORED and header.depth <= 8:
    white = 255 if history is History.FROM_8_BITS else 65535
    if is_grey:
      values = numbers * (white // (2**header.depth - 1))
    elif greys is not None:
      values = numbers.copy()
      values[: len(greys)] = greys[: len(numbers)].astype(np.uint32) * (white // 255)
  return values.astype(np.uint16)


def find_history(paths: Sequence[epath.Path], known: Known) -> History:
  """Finds out what the numbers in the label files of a data set mean.

  Reads headers, and decodes the files that can be read in more than one way.

  Args:
    paths: all the label files of all splits. What cannot be read is left to the preparation.
    known: the data set's values.

  Returns:
    The history that all files agree with.

  Raises:
    ValueError: there are several and they differ, or palettes contradict one another; names files.
  """
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda path: _look(path, known.histories), paths)
    labels = [label for label in found if label is not None]
  doubtful = [label for label in labels if label.used is not None]
  clash = _palette_clash(labels)
  if clash and any(len(label.header.palette) and label.header.greys is None for label in labels):
    raise ValueError(_describe_clash(*clash))  # colours have no meaning but their index
  if not doubtful:
    return History.AS_STORED
  is_all = len(doubtful) == len(labels)
  possible = [history for history in known.histories if _fits(history, doubtful, known, is_all)]
  if clash:
    possible = [history for history in possible if history is not History.AS_STORED]
  if not possible:
    if clash:
      raise ValueError(_describe_clash(*clash))
    return History.AS_STORED  # and the preparation will name the value that is wrong
  differing = [label for label in doubtful if _differ(label, possible)]
  if differing:
    raise ValueError(
      files.several(
        [_describe(label, possible) for label in differing],
        "label PNGs can be read in more than one way, as after a PNG optimizer",
        _REMEDY,
      )
    )
  return possible[0]


def _fits(history: History, doubtful: Sequence[_Label], known: Known, is_all: bool) -> bool:
  """Whether files, all the data set's or some, hold known values and more than one class."""
  values = np.concatenate([label.values(history) for label in doubtful])
  if not (known.classes | known.others)[values].all():
    return False
  if history is History.AS_STORED or not is_all:
    return True
  return len(np.unique(values[known.classes[values]])) > 1


def _look(path: epath.Path, histories: Iterable[History]) -> _Label | None:
  try:
    header = label_png.read_header(path)
    if header.colour_type in label_png.COLOUR_TYPES:
      return _Label(path, header, None)
    first, *others = (meaning(header, history) for history in histories)
    if all((first == other).all() for other in others):
      return _Label(path, header, None)
    return _Label(path, header, _numbers(path, header))
  except ValueError:
    return None


def _numbers(path: epath.Path, header: label_png.Header) -> np.ndarray:
  """The numbers that a file stores, ascending."""
  pixels = label_png.decode(path, file_access.read_bytes(path), header)
  return np.flatnonzero(np.bincount(pixels.ravel()))


def _differ(label: _Label, histories: Sequence[History]) -> bool:
  first, *others = (label.values(history) for history in histories)
  return any((first != other).any() for other in others)


def _palette_clash(labels: Sequence[_Label]) -> tuple[_Label, _Label, int] | None:
  """Two files whose palettes give one index that both use two colours: it cannot be the class."""
  with_palette = [label for label in labels if len(label.header.palette)]
  if len({label.header.palette.tobytes() for label in with_palette}) < 2:
    return None  # and no file had to be decoded
  seen: dict[int, tuple[tuple[int, ...], _Label]] = {}
  for label in with_palette:
    palette = label.header.palette
    try:
      numbers = _numbers(label.path, label.header) if label.used is None else label.used
    except ValueError:  # left to the preparation, which lists all such files
      continue
    for index in numbers[numbers < len(palette)].tolist():
      colour, other = seen.setdefault(index, (tuple(palette[index].tolist()), label))
      if colour != tuple(palette[index].tolist()):
        return other, label, index
  return None


def _describe_clash(first: _Label, second: _Label, index: int) -> str:
  colours = (tuple(label.header.palette[index].tolist()) for label in (first, second))
  return (
    f"{first.path} and {second.path}: the palettes of these label PNGs have the colours"
    f" {next(colours)} and {next(colours)} for the index {index}, so that the index is not the"
    f" class, as after a PNG optimizer. {_REMEDY}"
  )


def _describe(label: _Label, histories: Sequence[History]) -> str:
  header = label.header
  kind = "a palette of greys" if header.colour_type == label_png.PALETTE else "grey"
  readings = [
    f"{_shown(label.values(history))} {history.value}"
    for history in histories
    if history is histories[0] or (label.values(history) != label.values(histories[0])).any()
  ]
  bits = "1 bit" if header.depth == 1 else f"{header.depth} bits"
  return f"{label.path}: {bits}, {kind}: {' or '.join(readings)}"


def _shown(values: np.ndarray) -> str:
  text = ", ".join(map(str, values[:6].tolist()))
  return f"{{{text}{', ...' if len(values) > 6 else ''}}}"
