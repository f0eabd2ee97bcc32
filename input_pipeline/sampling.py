"""Which record stands at which position of the endless training stream."""

import bisect
import collections
import dataclasses
import functools
import threading

import numpy as np

# The last epochs' orders are kept: batches may straddle two epochs, and several are made at a time.
_CACHED_ORDERS = 4
# Records whose repeats are drawn at a time while epochs are only counted.
_COUNTED_AT_A_TIME = 1 << 18
# Spawn keys of independent random streams.
_ROUNDING, _ORDER = 1, 2


@functools.lru_cache(maxsize=_CACHED_ORDERS)
def _epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
  # Not grain's index_shuffle: below some thousand records it walks through a 16-bit range for each
  # index (19 ms an index at 2 records, 2 ms at 20), and this is drawn once in an epoch.
  return np.random.default_rng((seed, epoch)).permutation(num_records)


def _check(num_records: int, seed: int) -> None:
  if num_records < 1:
    raise ValueError(f"The split holds {num_records} records; at least 1 is needed.")
  if seed < 0:
    raise ValueError(f"seed is {seed}; it must not be negative.")


@dataclasses.dataclass(frozen=True)
class EpochShuffle:
  """Uniform sampling without replacement: each epoch is a permutation from (seed, epoch).

  The mapping is a pure function of the position, so a stream needs no state beyond the position.

  Attributes:
    num_records: N, number of records of the split.
    seed: non-negative seed of the stream.
  """

  num_records: int
  seed: int

  def __post_init__(self):
    _check(self.num_records, self.seed)

  def record_index(self, position: int) -> int:
    """Record in [0, N) at the global stream position n >= 0, which lies in epoch n // N."""
    epoch, offset = divmod(position, self.num_records)
    return int(_epoch_order(self.num_records, self.seed, epoch)[offset])


class RepeatFactorShuffle:
  """Repeat factor sampling: an epoch holds record i floor(r_i) or floor(r_i) + 1 times.

  The factor is rounded anew in every epoch, up with the probability of its fraction, so that r_i is
  the mean number of repeats; then the list is shuffled exactly. Epochs differ in length and follow
  one another without end. The mapping is a pure function of (factors, seed, position). The lengths
  of the epochs before a position have to be known for it: they are counted when first needed (about
  5 ns for each record of each epoch) and kept.

  Args:
    factors: r, each at least 1, float [N].
    seed: non-negative seed of the stream.

  Raises:
    ValueError: if there is no record, or a factor is below 1 or not finite.

  Source: A. Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (CVPR 2019),
  appendix B; the rounding and the order are detectron2's (RepeatFactorTrainingSampler).
  """

  def __init__(self, factors: np.ndarray, seed: int):
    factors = np.asarray(factors, np.float64)
    _check(len(factors), seed)
    wrong = np.flatnonzero(~(np.isfinite(factors) & (factors >= 1)))
    if len(wrong):
      raise ValueError(
        f"The repeat factor of record {wrong[0]} is {factors[wrong[0]]} ({len(wrong)} such"
        " records); factors must be finite and at least 1."
      )
    self.num_records = len(factors)
    self.seed = seed
    self._factors = factors
    self._whole = np.floor(factors).astype(np.int64)  # [N]
    self._fraction = factors - self._whole  # [N]
    self._ends = []  # stream position behind each counted epoch
    self._orders = collections.OrderedDict()
    self._lock = threading.Lock()  # batches are made in several threads

  def __reduce__(self):
    return RepeatFactorShuffle, (self._factors, self.seed)

  def record_index(self, position: int) -> int:
    """Record in [0, N) at the global stream position n >= 0."""
    epoch, offset = self.locate(position)
    return int(self.epoch_order(epoch)[offset])

  def locate(self, position: int) -> tuple[int, int]:
    """Returns (epoch, offset in the epoch) of the global stream position n >= 0."""
    with self._lock:
      while not self._ends or self._ends[-1] <= position:
        self._count_epochs()
      epoch = bisect.bisect_right(self._ends, position)
      return epoch, position - (self._ends[epoch - 1] if epoch else 0)

  def repeats(self, epoch: int, num_epochs: int = 1) -> np.ndarray:
    """How often each record stands in the epochs from `epoch` on: int64 [num_epochs, N]."""
    # One stream of numbers, N for each epoch; PCG64 jumps to any place of it.
    sequence = np.random.SeedSequence(self.seed, spawn_key=(_ROUNDING,))
    bits = np.random.PCG64(sequence).advance(epoch * self.num_records)
    drawn = np.random.Generator(bits).random((num_epochs, self.num_records))
    return self._whole + (drawn < self._fraction)

  def epoch_order(self, epoch: int) -> np.ndarray:
    """The records of an epoch in the order of the stream, int32 [length of the epoch]."""
    with self._lock:
      if epoch not in self._orders:
        records = np.arange(self.num_records, dtype=np.int32)
        order = np.repeat(records, self.repeats(epoch)[0])
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(_ORDER,))
        np.random.default_rng(sequence).shuffle(order)
        self._orders[epoch] = order
        if len(self._orders) > _CACHED_ORDERS:
          self._orders.popitem(last=False)
      return self._orders[epoch]

  def _count_epochs(self) -> None:
    first = len(self._ends)
    num_epochs = max(1, _COUNTED_AT_A_TIME // self.num_records)
    lengths = self.repeats(first, num_epochs).sum(axis=1)
    last = self._ends[-1] if first else 0
    self._ends += (last + np.cumsum(lengths)).tolist()
