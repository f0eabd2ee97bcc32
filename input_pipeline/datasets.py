"""The data sets, one entry each: all that is known of a data set by its name."""

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from input_pipeline import class_stats, prepared
from input_pipeline.ade20k import layout as ade20k
from input_pipeline.ade20k_full import layout as ade20k_full
from input_pipeline.class_tables import ClassTable
from input_pipeline.coco_stuff import layout as coco_stuff
from input_pipeline.folder import prepare as folder
from input_pipeline.mhp_v2 import layout as mhp_v2
from input_pipeline.shapes_lt import classes as shapes_lt_classes, prepare as shapes_lt


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
  """A data set: where its classes and its data come from.

  Both functions take the directory of all prepared data, the root and the ignore label of the
  config; the last two mean something to a user's folder only.

  Attributes:
    name: `config.data.name`, the name for the commands and that of its file in configs/.
    read_classes: returns what the labels mean, as far as possible without prepared data.
    prepare: returns the prepared directory, made where it is not there; None for a published data
      set, whose files have to be obtained from their owners.
    takes_root: whether it is a user's folder, which alone says what its classes are.
    class_table: published facts; None of a data set that is not published.
    layout: module that knows the published files: `RAW_FOLDERS`, the folders that the owners'
      archives hold, and `read_contents(raw_dir, class_table)`; None where there are none, or those
      of `part_of`.
    part_of: name of the data set of whose training images it is a part; "" of a whole one.
  """

  name: str
  read_classes: Callable[[epath.PathLike, str, int], prepared.ClassMetadata]
  prepare: Callable[[epath.PathLike, str, int], epath.Path] | None = None
  takes_root: bool = False
  class_table: ClassTable | None = None
  layout: types.ModuleType | None = None
  part_of: str = ""

  @property
  def official_stats(self) -> class_stats.ClassStats | None:
    """Published statistics of the training split; None where there are none."""
    return None if self.class_table is None else self.class_table.train_stats


def _published(class_table: ClassTable, **source: Any) -> DatasetSpec:
  return DatasetSpec(
    name=class_table.name,
    class_table=class_table,
    read_classes=lambda *_: class_table.metadata,
    **source,
  )


_SPECS = (
  DatasetSpec(
    name="shapes_lt",
    read_classes=lambda *_: shapes_lt_classes.METADATA,
    prepare=lambda data_dir, *_: shapes_lt.prepare_shapes_lt(data_dir),
  ),
  DatasetSpec(
    name="folder",
    read_classes=folder.read_classes,
    prepare=folder.prepare_folder,
    takes_root=True,
  ),
  _published(ClassTable("ade20k", 20_210, 2_000), layout=ade20k),
  _published(
    ClassTable(
      "ade20k_full",
      25_574,
      2_000,
      ignore_label=65535,
      repeat_threshold=0.0003,
      query_threshold=0.0003,
    ),
    layout=ade20k_full,
  ),
  _published(ClassTable("coco_stuff", 118_287, 5_000), layout=coco_stuff),
  _published(
    ClassTable("coco_stuff_lt", 40_679, 5_000, repeat_threshold=0.0012, query_threshold=0.0012),
    part_of="coco_stuff",
  ),
  _published(ClassTable("mhp_v2", 15_403, 5_000, flip_pairs=mhp_v2.FLIP_PAIRS), layout=mhp_v2),
  _published(
    ClassTable(
      "mhp_v2_lt",
      6_931,
      5_000,
      flip_pairs=mhp_v2.FLIP_PAIRS,
      repeat_threshold=0.0012,
      query_threshold=0.0024,
    ),
    part_of="mhp_v2",
  ),
)
SPECS = {spec.name: spec for spec in _SPECS}
PUBLISHED = tuple(name for name, spec in SPECS.items() if spec.class_table is not None)


def nearest_name(name: str, names: Iterable[str]) -> str:
  """The entry of `names` that is spelled most like `name`."""
  return max(names, key=lambda valid: difflib.SequenceMatcher(None, name, valid).ratio())


def find_spec(name: str) -> DatasetSpec:
  """Returns a data set's entry.

  Raises:
    ValueError: if there is no such data set; names the nearest valid name.
  """
  if name not in SPECS:
    raise ValueError(
      f"There is no data set {name!r}; did you mean {nearest_name(name, SPECS)!r}?"
      f" Data sets: {', '.join(SPECS)}."
    )
  return SPECS[name]
