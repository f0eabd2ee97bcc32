"""Files of events, as TensorBoard shows them, written with its own parts and no TensorFlow."""

import io
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath
from google.protobuf import message
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.summary.writer import record_writer

from ltss_jax.workdir import atomic_file

_FORMAT = "brain.Event:2"  # the one that TensorBoard knows
_PREFIX = "events.out.tfevents."  # by which it finds them
# A record is the length of its content, that number's checksum, the content, and its checksum.
_LENGTH, _CHECKSUM_BYTES = struct.Struct("<Q"), 4


class EventWriter:
  """Writes scalars and images to a file of events.

  What was written outlives the process at once on a file system, and from the next `flush` on in a
  store of objects (gs://), which takes whole files only: there each flush ends a file.
  """

  def __init__(self, directory: epath.PathLike, start_step: int = 0):
    """Opens nothing yet: the file appears with the first event.

    Args:
      directory: folder of the run, local or remote; made where it is missing.
      start_step: step of the resumed state. Events of later steps, left by a run that was cut off,
        are removed.
    """
    self._directory = epath.Path(directory)
    self._grows = atomic_file.can_append(self._directory)
    self._file: record_writer.RecordWriter | None = None
    for path in self._directory.glob(f"{_PREFIX}*"):
      _cut(path, start_step)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes numbers of a step."""
    value = summary_pb2.Summary.Value
    self._write(step, [value(tag=name, simple_value=float(x)) for name, x in scalars.items()])

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes images of a step, uint8 [N, H, W, 3] under each name."""
    self._write(step, [_image_value(name, batch) for name, batch in images.items()])

  def flush(self) -> None:
    """Makes visible to others all that was written."""
    if not self._grows:
      self.close()
    elif self._file is not None:
      self._file.flush()

  def close(self) -> None:
    """Ends the file; what is written after goes to another one."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def _write(self, step: int, values: list[summary_pb2.Summary.Value]) -> None:
    if self._file is None:
      self._file = self._open()
      self._add(event_pb2.Event(file_version=_FORMAT))
    self._add(event_pb2.Event(step=int(step), summary=summary_pb2.Summary(value=values)))
    if self._grows:
      self._file.flush()

  def _open(self) -> record_writer.RecordWriter:
    """Makes a file whose name sorts behind those before it, as TensorBoard reads them in order."""
    self._directory.mkdir(parents=True, exist_ok=True)
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    maker = f"{socket.gethostname()}.{os.getpid()}"
    name = f"{_PREFIX}{seconds:010d}.{nanoseconds:09d}.{maker}"
    return record_writer.RecordWriter((self._directory / name).open("wb"))

  def _add(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    self._file.write(event.SerializeToString())


def _cut(path: epath.Path, last_step: int) -> None:
  """Takes events of later steps out of a file, and a last one that is not complete."""
  data = path.read_bytes()
  kept = b"".join(record for record in _records(data) if _step(record) <= last_step)
  if len(kept) < len(data):
    with atomic_file.atomic_write(path) as file:
      file.write(kept)


def _records(data: bytes) -> Iterator[bytes]:
  start, around = 0, _LENGTH.size + 2 * _CHECKSUM_BYTES
  while start + _LENGTH.size <= len(data):
    end = start + around + _LENGTH.unpack_from(data, start)[0]
    if end > len(data):
      return
    yield data[start:end]
    start = end


def _step(record: bytes) -> int:
  """Step of a record's event; 0 where it is damaged, for TensorBoard to complain of."""
  try:
    return event_pb2.Event.FromString(
      record[_LENGTH.size + _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
    ).step
  except message.DecodeError:
    return 0


def _image_value(name: str, batch: np.ndarray) -> summary_pb2.Summary.Value:
  """Images under one name, as TensorBoard's own functions store them: width, height, PNG files."""
  height, width = batch.shape[1:3]
  strings = [str(width).encode(), str(height).encode(), *map(_png, batch)]
  shape = tensor_shape_pb2.TensorShapeProto(
    dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))]
  )
  return summary_pb2.Summary.Value(
    tag=name,
    metadata=image_metadata.create_summary_metadata(display_name=None, description=None),
    tensor=tensor_pb2.TensorProto(
      dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=strings
    ),
  )


def _png(image: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()
