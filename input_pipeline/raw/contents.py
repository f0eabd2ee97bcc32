"""What a raw data set holds, as its reader found it; the builder stores that."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from input_pipeline import prepared
from input_pipeline.raw import record

VERSION = "1.0.0"  # of the prepared data sets


@dataclasses.dataclass(frozen=True)
class Contents:
  """A raw data set that has everything in its place; the images are not read yet.

  Attributes:
    title: short name, for the progress bar.
    root: folder or file that it is read from, for messages.
    description: one sentence.
    metadata: classes, ignore label and flip pairs.
    items: split name -> what `read` takes, in the order of the records to write.
    read: reads one example; a ValueError names the file that is not usable. Called by threads.
    note: origin of the data, plain JSON values; stored beside the records.
  """

  title: str
  root: str
  description: str
  metadata: prepared.ClassMetadata
  items: dict[str, Sequence[Any]]
  read: Callable[[Any], record.Record]
  note: dict[str, Any]
