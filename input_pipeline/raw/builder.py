"""The tfds builder that stores the records of any raw data set, and the call that runs it."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import tensorflow_datasets as tfds
import tqdm
from absl import logging
from etils import epath

from input_pipeline import class_stats, prepared
from input_pipeline.raw import contents as contents_lib, files, info, note as note_lib, record

_NUM_NAMED = 20  # of the classes that occur nowhere
_T, _R = TypeVar("_T"), TypeVar("_R")


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Stores a data set as ArrayRecord in the order of its items, with its statistics beside."""

  VERSION = tfds.core.Version(contents_lib.VERSION)

  def __init__(self, *, name: str, contents: contents_lib.Contents, **kwargs: Any):
    self.name = name  # of the directory and files; tfds would take that of the class
    self._contents = contents
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    dtype = record.label_dtype(self._contents.metadata.ignore_label)
    return info.Info(
      builder=self,
      description=self._contents.description,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png"),
          "file_name": tfds.features.Text(),
        }
      ),
      disable_shuffling=True,  # records and their pixel counts keep the order of the items
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    prepared.write_metadata(self.data_dir, self._contents.metadata)
    note_lib.write_note(self.data_dir, self._contents.note)
    return {split: self._generate_examples(split) for split in prepared.SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the examples of a split, then writes its pixel counts."""
    contents, items = self._contents, self._contents.items[split]
    sizes, rows, notes, problems = [], [], [], []
    results = _map_in_threads(lambda item: _read_or_error(contents.read, item), items)
    bar = tqdm.tqdm(results, f"Preparing {contents.title} {split}", len(items), unit=" images")
    for index, result in enumerate(bar):
      if isinstance(result, ValueError):
        problems.append(str(result))
      if problems:  # go on to find them all, but store nothing more
        continue
      sizes.append(result.size)
      rows.append(result.counts)
      notes += [result.note] if result.note else []
      yield (
        index,
        {"image": result.image, "label": result.label, "file_name": result.file_name},
      )
    if problems:
      remedy = "Mend or remove these files (image and label together), then start again."
      raise ValueError(
        files.several(problems, f"of {len(items)} {split} examples are not usable", remedy)
      )
    pixel_counts = class_stats.PixelCounts.from_rows(sizes, rows)
    _check_classes(contents, split, pixel_counts)
    prepared.write_pixel_counts(self.data_dir, split, pixel_counts)
    _write_notes(epath.Path(self.data_dir), split, notes)


def build(
  name: str, contents: contents_lib.Contents, data_dir: epath.PathLike, config_name: str = ""
) -> epath.Path:
  """Prepares a data set into `data_dir`/name[/config_name]/version, which appears when complete.

  Args:
    name: name of the data set.
    contents: examples to store, and their classes.
    data_dir: directory of all prepared data (local or gs://).
    config_name: directory between name and version; none where empty.

  Returns:
    The prepared directory.

  Raises:
    ValueError: if files are not usable; names them.
  """
  config = tfds.core.BuilderConfig(name=config_name) if config_name else None
  builder = RecordBuilder(
    name=name, contents=contents, config=config, data_dir=epath.Path(data_dir)
  )
  directory = epath.Path(builder.data_dir)
  leftovers = sorted(directory.parent.glob("incomplete.*")) if directory.parent.is_dir() else []
  if leftovers:
    logging.warning(
      "%s: left by a preparation that was cut off, or in the hands of another process now. It is"
      " not used; remove it if nothing else is running.",
      ", ".join(map(str, leftovers)),
    )
  logging.info("Preparing %s into %s.", contents.root, directory)
  prepared.run_builder(builder, tfds_progress_bars=False)
  return directory


def _write_notes(directory: epath.Path, split: str, notes: Sequence[str]) -> None:
  if notes:
    path = directory / f"{split}_notes.txt"
    path.write_text("\n".join(notes) + "\n")
    logging.warning("%s", files.several(notes, f"{split} files to know about", f"All: {path.name}"))


def _check_classes(
  contents: contents_lib.Contents, split: str, pixel_counts: class_stats.PixelCounts
) -> None:
  metadata = contents.metadata
  images_with_class = class_stats.class_stats(pixel_counts, metadata.num_classes).images_with_class
  if not images_with_class.any():
    raise ValueError(
      f"All the pixels of the {split} labels of {contents.root} carry the ignore label"
      f" {metadata.ignore_label}: there is nothing to learn or score; check the ignore label."
    )
  absent = [
    name for name, count in zip(metadata.class_names, images_with_class, strict=True) if not count
  ]
  if absent:
    logging.warning(
      "%s: %d of %d classes occur in no %s image: %s",
      contents.root,
      len(absent),
      metadata.num_classes,
      split,
      ", ".join(absent[:_NUM_NAMED]) + (", ..." if len(absent) > _NUM_NAMED else ""),
    )


def _read_or_error(read: Callable[[Any], record.Record], item: Any) -> record.Record | ValueError:
  try:
    return read(item)
  except ValueError as error:
    return error


def _map_in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
  """Maps in order over all cores (the decoders release the GIL), few items ahead of the reader."""
  num_threads = os.cpu_count() or 1
  pending: collections.deque[concurrent.futures.Future[_R]] = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > 4 * num_threads:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
