"""tfds builder for a user's own folder of images and label PNGs."""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import tensorflow_datasets as tfds
import tqdm
from absl import logging

from input_pipeline import class_stats, prepared
from input_pipeline.folder import layout as layout_lib, record as record_lib, source

_T, _R = TypeVar("_T"), TypeVar("_R")


@dataclasses.dataclass(kw_only=True, repr=False)
class FolderConfig(tfds.core.BuilderConfig):
  """Which folder to prepare.

  Attributes:
    layout: the checked folder.
    fingerprint: its digest, stored beside the data.
  """

  layout: layout_lib.Layout
  fingerprint: str

  def __repr__(self) -> str:  # tfds logs it; the layout lists every file
    return f"FolderConfig({self.name!r})"


class Folder(tfds.core.GeneratorBasedBuilder):
  """Stores a folder data set as ArrayRecord, in the order of the file stems."""

  VERSION = tfds.core.Version(source.VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    layout = self.builder_config.layout
    dtype = record_lib.label_dtype(layout.metadata.ignore_label)
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"The data set in the folder {layout.root.name}.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(),
          "label": tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png"),
          "file_name": tfds.features.Text(),
        }
      ),
      disable_shuffling=True,  # records and their pixel counts keep the order of the file names
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    prepared.write_metadata(self.data_dir, self.builder_config.layout.metadata)
    source.write_source(
      self.data_dir, self.builder_config.layout.root, self.builder_config.fingerprint
    )
    return {split: self._generate_examples(split) for split in prepared.SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the examples of a split, then writes its pixel counts."""
    layout = self.builder_config.layout
    pairs = layout.pairs[split]
    sizes, rows, problems = [], [], []
    results = _map_in_threads(lambda pair: _read_or_error(pair, layout.metadata), pairs)
    bar = tqdm.tqdm(results, f"Preparing {layout.root.name} {split}", len(pairs), unit=" images")
    for index, result in enumerate(bar):
      if isinstance(result, ValueError):
        problems.append(str(result))
      if problems:  # go on to find them all, but store nothing more
        continue
      sizes.append(result.size)
      rows.append(result.counts)
      yield (
        index,
        {"image": result.image, "label": result.label, "file_name": pairs[index].image.name},
      )
    if problems:
      remedy = "Mend or remove these files (image and label together), then start again."
      raise ValueError(
        layout_lib.several(problems, f"of {len(pairs)} {split} examples are not usable", remedy)
      )
    pixel_counts = class_stats.PixelCounts.from_rows(sizes, rows)
    _check_classes(layout, split, pixel_counts)
    prepared.write_pixel_counts(self.data_dir, split, pixel_counts)


def _check_classes(
  layout: layout_lib.Layout, split: str, pixel_counts: class_stats.PixelCounts
) -> None:
  metadata = layout.metadata
  images_with_class = class_stats.class_stats(pixel_counts, metadata.num_classes).images_with_class
  if not images_with_class.any():
    raise ValueError(
      f"All the pixels of {layout.root / 'annotations' / split} carry the ignore label"
      f" {metadata.ignore_label}: there is nothing to learn or score; check the ignore label."
    )
  absent = [
    name for name, count in zip(metadata.class_names, images_with_class, strict=True) if not count
  ]
  if absent:
    logging.warning(
      "%s: %d of %d classes occur in no %s image: %s",
      layout.root,
      len(absent),
      metadata.num_classes,
      split,
      ", ".join(absent),
    )


def _read_or_error(
  pair: layout_lib.Pair, metadata: prepared.ClassMetadata
) -> record_lib.Record | ValueError:
  try:
    return record_lib.read_record(pair, metadata)
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
