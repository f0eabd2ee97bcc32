"""Which record stands at which position of the endless training stream."""

import dataclasses
import functools

import numpy as np

# The last epochs' orders are kept: batches may straddle two epochs, and several are made at a time.
_CACHED_ORDERS = 4


@functools.lru_cache(maxsize=_CACHED_ORDERS)
def _epoch_order(num_records: int, seed: int, epoch: int) -> np.ndarray:
  # Not grain's index_shuffle: below some thousand records it walks through a 16-bit range for each
  # index (19 ms an index at 2 records, 2 ms at 20), and this is drawn once in an epoch.
  return np.random.default_rng((seed, epoch)).permutation(num_records)


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
    if self.num_records < 1:
      raise ValueError(f"The split holds {self.num_records} records; at least 1 is needed.")
    if self.seed < 0:
      raise ValueError(f"seed is {self.seed}; it must not be negative.")

  def record_index(self, position: int) -> int:
    """Record in [0, N) at the global stream position n >= 0, which lies in epoch n // N."""
    epoch, offset = divmod(position, self.num_records)
    return int(_epoch_order(self.num_records, self.seed, epoch)[offset])
