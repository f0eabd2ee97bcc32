"""Prepared data sets on disk: ArrayRecord files written by tfds, with metadata beside them.

A prepared directory holds the splits `train` and `val` (records with `image`, `label` and
`file_name`), `classes.json` and `<split>_pixel_counts.npz`. The image and label bytes are JPEG or
PNG and come back undecoded.

Damage is noticed: the records have checksums of their own, and SHA256SUMS those of the files beside
them. A directory of an older version has none, and what lies beside its records is read unchecked.
"""

import bisect
import contextlib
import dataclasses
import io
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

from absl import logging
from etils import epath

from input_pipeline import checked_files, class_stats, file_access

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

SPLITS = ("train", "val")
_CLASSES_FILE = "classes.json"
_INFO_FILE, _FEATURES_FILE = "dataset_info.json", "features.json"  # as tfds calls them
_RECORDS = ".array_record-"


@dataclasses.dataclass(frozen=True)
class ClassMetadata:
  """What the labels of a data set mean.

  Attributes:
    name: name of the data set.
    class_names: one name per class; the position is the label.
    dataset_ids: id of every class in the data set's own numbering.
    ignore_label: label of the pixels that belong to no class.
    flip_pairs: pairs of classes that swap under a horizontal flip (left arm, right arm).
  """

  name: str
  class_names: tuple[str, ...]
  dataset_ids: tuple[int, ...]
  ignore_label: int
  flip_pairs: tuple[tuple[int, int], ...] = ()

  def __post_init__(self):
    if len(self.class_names) != len(self.dataset_ids):
      raise ValueError(
        f"{self.name}: {len(self.class_names)} class names but {len(self.dataset_ids)} ids."
      )
    if not self.num_classes <= self.ignore_label <= 65535:
      raise ValueError(
        f"{self.name}: the ignore label {self.ignore_label} must lie between the number of classes"
        f" ({self.num_classes}) and 65535, so that it is no class."
      )
    for pair in self.flip_pairs:
      if len(set(pair)) != 2 or not all(0 <= index < self.num_classes for index in pair):
        raise ValueError(
          f"{self.name}: the flip pair {pair} must be two different classes below"
          f" {self.num_classes}."
        )

  @property
  def num_classes(self) -> int:
    """Number of classes C; the labels are 0 .. C - 1."""
    return len(self.class_names)


def write_metadata(directory: epath.PathLike, metadata: ClassMetadata) -> None:
  """Writes `classes.json` into `directory`."""
  text = json.dumps(dataclasses.asdict(metadata), indent=1, ensure_ascii=False)
  (epath.Path(directory) / _CLASSES_FILE).write_text(text + "\n")


def read_metadata(directory: epath.PathLike) -> ClassMetadata:
  """Reads `classes.json` from `directory`.

  Raises:
    FileNotFoundError: if the directory holds no prepared data set.
    ValueError: if the file is damaged.
  """
  path = epath.Path(directory) / _CLASSES_FILE
  if not path.exists():
    raise FileNotFoundError(f"{path} is missing: {directory} holds no prepared data set.")
  fields = read_json(path)
  with _named(path):
    return ClassMetadata(
      name=fields["name"],
      class_names=tuple(fields["class_names"]),
      dataset_ids=tuple(fields["dataset_ids"]),
      ignore_label=fields["ignore_label"],
      flip_pairs=tuple((first, second) for first, second in fields["flip_pairs"]),
    )


def write_sums(directory: epath.PathLike) -> None:
  """Writes `SHA256SUMS` of all files but the records: the last thing that a preparation does."""
  names = {path.name for path in epath.Path(directory).iterdir()}
  checked_files.write_sums(
    directory, {n for n in names if _RECORDS not in n} - {checked_files.SUMS_FILE}
  )


def read_json(path: epath.PathLike) -> Any:
  """Reads a JSON file of a prepared directory.

  Raises:
    ValueError: if it is damaged; names it.
  """
  data = checked_files.read(path, _remedy(path))
  with _named(path):
    return json.loads(data)


def _remedy(path: epath.PathLike) -> str:
  return f"remove {epath.Path(path).parent} and prepare the data again."


@contextlib.contextmanager
def _named(path: epath.PathLike, part: str = "") -> Iterator[None]:
  """What is wrong with the content of a file becomes a ValueError that names it."""
  try:
    yield
  except Exception as error:  # Those of tfds and of the records' reader share no base class.
    raise ValueError(
      f"{part}{path} is not readable ({error!r}); if it is damaged, {_remedy(path)}"
    ) from error


def _pixel_counts_path(directory: epath.PathLike, split: str) -> epath.Path:
  return epath.Path(directory) / f"{split}_pixel_counts.npz"


def write_pixel_counts(
  directory: epath.PathLike, split: str, pixel_counts: class_stats.PixelCounts
) -> None:
  """Writes `<split>_pixel_counts.npz` into `directory`."""
  pixel_counts.save(_pixel_counts_path(directory, split))


def read_pixel_counts(directory: epath.PathLike, split: str) -> class_stats.PixelCounts:
  """Reads `<split>_pixel_counts.npz` from `directory`.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if the file is damaged.
  """
  return class_stats.PixelCounts.load(_pixel_counts_path(directory, split))


def missing_files(directory: epath.PathLike) -> list[str]:
  """Names of the files that a prepared directory needs and `directory` lacks.

  A rename is atomic on a local disk but a file by file copy on object stores, so that the directory
  alone does not show that the preparation ended.

  Returns:
    Sorted file names; empty where the data set is complete.

  Raises:
    ValueError: if the list of the records' files is damaged.
  """
  directory = epath.Path(directory)
  present = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
  needed = {_INFO_FILE, _FEATURES_FILE, _CLASSES_FILE}
  needed |= {_pixel_counts_path(directory, split).name for split in SPLITS}
  if _INFO_FILE in present:
    info = read_json(directory / _INFO_FILE)
    with _named(directory / _INFO_FILE):
      for split in info["splits"]:
        num_shards = len(split["shardLengths"])
        needed |= {
          f"{info['name']}-{split['name']}{_RECORDS}{shard:05d}-of-{num_shards:05d}"
          for shard in range(num_shards)
        }
  return sorted(needed - present)


def make_room(directory: epath.Path, is_wanted: Callable[[], bool] = lambda: True) -> bool:
  """Removes what stands in the place of a new preparation, unless it serves by now.

  Another process may have prepared it anew since this one has looked, and be reading it.

  Args:
    directory: prepared directory that this process has found unusable; may be gone meanwhile.
    is_wanted: whether it serves where it is complete.

  Returns:
    Whether there is room; if not, what is there serves.
  """
  if not missing_files(directory) and is_wanted():
    return False
  # Removing takes a while, so that it gets a name first like those of tfds for unfinished ones.
  aside = directory.with_name(f"incomplete.{uuid.uuid4().hex[:6]}_{directory.name}")
  try:
    directory.rename(aside)
  except FileNotFoundError:  # another process was faster
    return True
  aside.rmtree()
  return True


def run_builder(builder: "tfds.core.DatasetBuilder", *, tfds_progress_bars: bool = True) -> None:
  """Runs a builder of this project into its directory, which appears only when it is complete.

  Nothing is downloaded. Where another process has completed the same directory meanwhile, that one
  is used.

  Args:
    builder: writes the metadata and pixel counts into its `data_dir` as it generates the splits.
    tfds_progress_bars: False where the builder shows a progress bar of its own.

  Raises:
    ValueError: the name of the directory is no UTF-8.
  """
  file_access.check_name(builder.data_dir)
  import tensorflow_datasets as tfds

  tfds.display_progress_bar(tfds_progress_bars)
  try:
    with (
      tempfile.TemporaryDirectory() as empty,  # else tfds makes DATA_DIR/downloads
      contextlib.redirect_stdout(io.StringIO()),  # it announces a download
    ):
      builder.download_and_prepare(
        download_dir=empty,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        file_format="array_record",
      )
  except OSError:
    if missing_files(builder.data_dir):
      raise
    logging.info("Another process has prepared %s meanwhile: using it.", builder.data_dir)
  finally:
    tfds.display_progress_bar(True)


class PreparedSource:
  """Random access to the undecoded records of one split.

  Pickles as (directory, split) and opens its files anew in every process, so that it can be sent to
  spawned worker processes.
  """

  def __init__(self, directory: epath.PathLike, split: str):
    # tfds takes 0.6 s to import and only reading needs it. It does not import TensorFlow here.
    import tensorflow_datasets as tfds

    self._directory = epath.Path(directory)
    self._split = split
    for name in (_INFO_FILE, _FEATURES_FILE):  # which tfds reads without a check
      read_json(self._directory / name)
    with _named(self._directory / _INFO_FILE):
      builder = tfds.builder_from_directory(self._directory)
      skip = tfds.decode.SkipDecoding()
      self._records = builder.as_data_source(split=split, decoders={"image": skip, "label": skip})
      self._files = builder.info.splits[split].filepaths
      self._ends = list(itertools.accumulate(builder.info.splits[split].shard_lengths))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    if not 0 <= index < len(self):  # a ValueError of the reader would not end an iteration
      raise IndexError(f"{self!r} has no record {index}; it has {len(self)}.")
    with _named(self._files[bisect.bisect_right(self._ends, index)], f"record {index} of "):
      record = self._records[index]
      return {
        "image": record["image"],
        "label": record["label"],
        "file_name": record["file_name"].decode(),
      }

  def __repr__(self) -> str:
    return f"PreparedSource({str(self._directory)!r}, {self._split!r})"

  def __reduce__(self):
    return PreparedSource, (str(self._directory), self._split)


def open_source(directory: epath.PathLike, split: str) -> PreparedSource:
  """Opens one split of a prepared data set for random access.

  Args:
    directory: a prepared directory (`<data_dir>/<data set>/<version>`).
    split: "train" or "val".

  Returns:
    A picklable source: `len(source)`, and `source[i]` is a dict with `image` (bytes of a JPEG or
    PNG), `label` (bytes of a single-channel PNG) and `file_name` (str).

  Raises:
    ValueError: if there is no such split.
    FileNotFoundError: if the directory holds no complete data set.
  """
  if split not in SPLITS:
    raise ValueError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")
  missing = missing_files(directory)
  if missing:
    raise FileNotFoundError(
      f"{directory} holds no complete prepared data set; missing: {', '.join(missing)}."
    )
  return PreparedSource(directory, split)
