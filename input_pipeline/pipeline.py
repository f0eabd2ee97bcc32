"""Training batches: an endless, random-access stream that is a pure function of (seed, position).

Stream position n holds record `EpochShuffle.record_index(n)` (or that of `RepeatFactorShuffle`),
augmented with random numbers from (seed, n). Global batch b is made of the positions b*B ..
(b+1)*B - 1, and process p of P reads the p-th of P equal parts. So the stream is the same for any
number of processes, workers and restarts, and the iterator state is the number of the next batch.
"""

import dataclasses
import math
import os
import shutil
import sys
import weakref
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np
from absl import logging

from input_pipeline import copy_paste as copy_paste_lib, sampling, transforms, workers

# POSIX shared memory of Linux; containers often give it 64 MiB only.
_SHARED_MEMORY_DIR = "/dev/shm"
# Spawn key of the random numbers of Copy-Paste's source: the destination's do not depend on it.
_SOURCE_STREAM = 1


@dataclasses.dataclass(frozen=True)
class TrainPipelineConfig:
  """Settings of the training stream.

  Attributes:
    batch_size: B, images in a global batch (over all processes).
    seed: seed of order and augmentation, not negative.
    augmentation: settings of the transforms; its crop_size is S, height and width of the examples.
    num_workers: worker processes; 0 prepares batches in threads of this process.
    prefetch: batches prepared ahead, by all threads or workers together (each worker at least 1).
    max_targets: T, number of present classes listed per image; 0 lists none.
    class_counts: count of each class in the training set; where a crop has more than T classes, the
      most frequent are left out of the list.
    repeat_factors: mean number of repeats of each record in an epoch, float [N]; None samples
      uniformly, each record once in an epoch.
    copy_paste: how regions of a second image are pasted; None: not at all. The second image is
      drawn from all records and augmented as the first, with random numbers of its own.
    source_weights: weights, float [N], that the second image is drawn with; None: uniformly.
  """

  batch_size: int
  seed: int
  augmentation: transforms.Augmentation
  num_workers: int
  prefetch: int
  max_targets: int
  class_counts: tuple[int, ...] = ()
  repeat_factors: np.ndarray | None = None
  copy_paste: copy_paste_lib.CopyPaste | None = None
  source_weights: np.ndarray | None = None

  def __post_init__(self):
    for field, least in (("batch_size", 1), ("num_workers", 0), ("prefetch", 1)):
      if getattr(self, field) < least:
        raise ValueError(f"{field} is {getattr(self, field)}; it must be at least {least}.")


class TrainBatches:
  """Random access to this process's part of each global batch; arguments as `train_iterator`."""

  def __init__(
    self, source: Any, config: TrainPipelineConfig, process_index: int = 0, process_count: int = 1
  ):
    if config.batch_size % process_count:
      raise ValueError(
        f"batch_size {config.batch_size} does not divide over {process_count} processes; "
        "choose a multiple of their number."
      )
    if not 0 <= process_index < process_count:
      raise ValueError(f"process_index {process_index} is not in [0, {process_count}).")
    self.config = config
    self.num_records = len(source)
    self.rows = config.batch_size // process_count
    self._source = source
    self._first_row = process_index * self.rows
    self._sampling = self._make_sampling()
    self._transforms = config.augmentation.chain()
    self._class_counts = np.asarray(config.class_counts)
    self._weights_end = self._summed_source_weights()  # [N] or None

  def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
    """This process's rows of a global batch, keys and shapes as in `train_iterator`."""
    first = batch * self.config.batch_size + self._first_row
    keys = ["image", "label"] + ["classes", "dropped_classes"] * bool(self.config.max_targets)
    arrays = {}
    for row in range(self.rows):  # Into place at once: faster than stacking them all at the end.
      example = self._example(first + row)
      for key in keys:
        value = np.asarray(example[key])
        if row == 0:
          arrays[key] = np.empty((self.rows, *value.shape), value.dtype)
        arrays[key][row] = value
    return arrays

  def identity(self) -> dict[str, int]:
    """What another stream differs in, as plain integers: part of the iterator's state."""
    own = {"seed": self.config.seed, "batch_size": self.config.batch_size}
    own["num_records"] = self.num_records
    if self.config.repeat_factors is not None:
      factors = np.ascontiguousarray(self.config.repeat_factors, np.float64)
      # 31 bits: whatever stores the state has room for them in a signed integer.
      own["repeat_factors_crc"] = zlib.crc32(factors.tobytes()) & 0x7FFFFFFF
    return own

  def _example(self, position: int) -> transforms.Example:
    index = self._sampling.record_index(position)
    example = self._augmented(index, np.random.default_rng((self.config.seed, position)))
    if self.config.copy_paste is not None:
      sequence = np.random.SeedSequence((self.config.seed, position), spawn_key=(_SOURCE_STREAM,))
      rng = np.random.default_rng(sequence)
      source = self._augmented(self._source_index(rng), rng)
      example = self.config.copy_paste(example, source, rng)
    if self.config.max_targets:
      example["classes"], example["dropped_classes"] = present_classes(
        example["label"], self.config.max_targets, self._class_counts
      )
    return example

  def _augmented(self, index: int, rng: np.random.Generator) -> transforms.Example:
    example = read_record(self._source, index)
    for transform in self._transforms:
      example = transform(example, rng)
    return example

  def _source_index(self, rng: np.random.Generator) -> int:
    if self._weights_end is None:
      return int(rng.integers(self.num_records))
    drawn = rng.random() * self._weights_end[-1]
    return int(np.searchsorted(self._weights_end, drawn, side="right"))

  def _make_sampling(self) -> sampling.EpochShuffle | sampling.RepeatFactorShuffle:
    factors = self.config.repeat_factors
    if factors is None:
      return sampling.EpochShuffle(self.num_records, self.config.seed)
    self._check_length("repeat_factors", factors)
    return sampling.RepeatFactorShuffle(factors, self.config.seed)

  def _summed_source_weights(self) -> np.ndarray | None:
    weights = self.config.source_weights
    if weights is None:
      return None
    self._check_length("source_weights", weights)
    return np.cumsum(weights)

  def _check_length(self, field: str, values: np.ndarray) -> None:
    if len(values) != self.num_records:
      raise ValueError(
        f"{field} has {len(values)} entries, the source {self.num_records} records; they must"
        " belong to the same data. Prepare the data again."
      )


def present_classes(
  label: np.ndarray, max_targets: int, class_counts: np.ndarray
) -> tuple[np.ndarray, np.int32]:
  """Lists the classes of a label map; where they are too many, the most frequent are left out.

  Args:
    label: [H, W] integers; a value that is no class (the ignore label) is not listed.
    max_targets: T, largest number listed.
    class_counts: [C], count of each class in the whole training set.

  Returns:
    (int32 [T] ascending, -1 behind the last; int32 number of classes left out).
  """
  present = np.flatnonzero(transforms.value_counts(label)[: len(class_counts)])
  if len(present) > max_targets:
    rarest = np.argsort(class_counts[present], kind="stable")[:max_targets]
    listed = np.sort(present[rarest])
  else:
    listed = present
  classes = np.full(max_targets, -1, np.int32)
  classes[: len(listed)] = listed
  return classes, np.int32(len(present) - len(listed))


def read_record(source: Any, index: int) -> dict[str, Any]:
  """Record `index` of a source; whatever the storage raises becomes a ValueError naming it."""
  try:
    return source[index]
  except ValueError:  # The source's own, which names the file.
    raise
  except Exception as error:  # The storage layers share no base class for their errors.
    raise ValueError(
      f"Record {index} of {len(source)} cannot be read ({error}). "
      "Check the prepared files, or delete and prepare them again."
    ) from error


class TrainIterator(Iterator[dict[str, np.ndarray]]):
  """Endless iterator of training batches whose state is the number of the next batch.

  Threads or worker processes start with the first `next`, so restoring a state before costs
  nothing. An error while a batch is made is raised by `next`; the state then still names that
  batch, and the next call tries it again.

  Args:
    batches: random access to the batches.
    start_batch: number of the first global batch.
  """

  def __init__(self, batches: TrainBatches, start_batch: int = 0):
    self._batches = batches
    self._next_batch = start_batch
    self._iterator = None
    self._stop = None
    self._closed = False

  def __next__(self) -> dict[str, np.ndarray]:
    if self._closed:
      raise ValueError("The training iterator is closed; make a new one.")
    if self._iterator is None:
      self._start()
    try:
      batch = next(self._iterator)
    except BaseException:
      self._stop_iterator()
      raise
    self._next_batch += 1
    if self._batches.config.num_workers:
      # A copy frees the worker's shared memory now, whatever the caller keeps of the batch.
      batch = {key: np.array(value) for key, value in batch.items()}
    return batch

  def get_state(self) -> dict[str, int]:
    """State after the batches handed out so far (prefetched ones do not count); plain integers.

    The same on every process, and independent of the numbers of processes and workers.
    """
    return {"next_batch": self._next_batch, **self._batches.identity()}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a state of `get_state`, in O(1).

    Raises:
      ValueError: if the state belongs to another stream (seed, batch size or number of records).
    """
    for key, own in self._batches.identity().items():
      if key not in state or state[key] != own:
        raise ValueError(
          f"The data state was saved with {key} {state.get(key)}, this run has {key} {own}; "
          "continue with the same setting or start in a new workdir."
        )
    self._stop_iterator()
    self._next_batch = int(state["next_batch"])

  def close(self) -> None:
    """Stops threads or worker processes and waits for the latter; safe to call again."""
    self._closed = True
    self._stop_iterator()

  def __enter__(self) -> "TrainIterator":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _start(self) -> None:
    self._iterator = iter(_dataset(self._batches, self._next_batch))
    # Closes also where the owner forgets to: workers ignore the signal Python ends daemons with.
    self._stop = weakref.finalize(self, self._iterator.close)

  def _stop_iterator(self) -> None:
    if self._iterator is not None:
      self._stop()
      self._iterator = None


def _dataset(batches: TrainBatches, start_batch: int) -> grain.IterDataset:
  """Batches start_batch, start_batch + 1, ... prepared ahead in threads or worker processes."""
  config = batches.config
  dataset = grain.MapDataset.range(start_batch, sys.maxsize).map(batches.__getitem__)
  if config.num_workers == 0:
    cv2.setNumThreads(0)  # One thread a batch; OpenCV's own pool would compete with them.
    threads = min(config.prefetch, os.cpu_count() or 1)
    return dataset.to_iter_dataset(grain.ReadOptions(threads, config.prefetch))
  # A worker makes every num_workers-th batch, one at a time.
  dataset = dataset.to_iter_dataset(grain.ReadOptions(0, 0))
  if not _fits_shared_memory(batches):
    options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
  processes = grain.MultiprocessingOptions(config.num_workers, _worker_buffer(config))
  return dataset.mp_prefetch(processes, worker_init_fn=workers.init_worker)


def _worker_buffer(config: TrainPipelineConfig) -> int:
  return math.ceil(config.prefetch / config.num_workers)


def _fits_shared_memory(batches: TrainBatches) -> bool:
  """Whether all batches in flight fit; a worker that writes beyond it dies of a bus error."""
  if not os.path.isdir(_SHARED_MEMORY_DIR):
    return True
  config = batches.config
  # grain buffers twice (in the worker and behind it), one is being made and one handed over.
  in_flight = config.num_workers * (2 * _worker_buffer(config) + 2)
  needed = (
    in_flight * batches.rows * config.augmentation.crop_size**2 * 5
  )  # 3 bytes image, 2 bytes label.
  free = shutil.disk_usage(_SHARED_MEMORY_DIR).free
  if needed > free:
    logging.warning(
      "Shared memory (%s) has %d MiB free, %d MiB may be needed: batches go through pipes, which "
      "is slower. Give the container more (docker: --shm-size).",
      _SHARED_MEMORY_DIR,
      free >> 20,
      needed >> 20,
    )
  return needed <= free


def train_iterator(
  source: Any,
  config: TrainPipelineConfig,
  process_index: int = 0,
  process_count: int = 1,
  start_batch: int = 0,
) -> TrainIterator:
  """Endless iterator over this process's part of the global training batches.

  Args:
    source: random access to records {"image": bytes, "label": bytes, "file_name": str}; picklable
      where config.num_workers > 0.
    config: settings of the stream.
    process_index: p of this process, which gets the rows [p*B/P, (p+1)*B/P) of each global batch.
    process_count: P, number of processes.
    start_batch: number of the first global batch.

  Returns:
    Iterator of {"image": uint8 [B/P, S, S, 3], "label": uint8 or uint16 [B/P, S, S]}; with
    `max_targets` also "classes" int32 [B/P, T], the classes that are present, ascending, -1 behind
    the last, and "dropped_classes" int32 [B/P], how many were present but not listed.

  Raises:
    ValueError: if batch_size does not divide over the processes or the source is empty.
  """
  return TrainIterator(TrainBatches(source, config, process_index, process_count), start_batch)
