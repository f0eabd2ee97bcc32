"""The order of the records: a uniform permutation in each epoch."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from input_pipeline import sampling


@given(st.integers(1, 60), st.integers(0, 2**32), st.integers(0, 1000))
def test_every_epoch_holds_every_record_once(num_records, seed, epoch):
  shuffle = sampling.EpochShuffle(num_records, seed)
  first = epoch * num_records
  indices = [shuffle.record_index(n) for n in range(first, first + num_records)]
  assert sorted(indices) == list(range(num_records))


def test_epochs_and_seeds_differ_in_order():
  def order(seed, epoch):
    shuffle = sampling.EpochShuffle(50, seed)
    return tuple(shuffle.record_index(50 * epoch + n) for n in range(50))

  # Neighbouring (seed, epoch) must not give each other's orders, as seed + epoch would.
  orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
  assert len(orders) == 16


def test_orders_are_uniform():
  shuffle = sampling.EpochShuffle(5, 0)
  counts = np.zeros((5, 5))
  for position in range(5 * 2000):
    counts[position % 5, shuffle.record_index(position)] += 1
  # 16 degrees of freedom; 39.25 is the 0.999 quantile.
  assert ((counts - 400) ** 2 / 400).sum() < 39.25


def test_bad_arguments():
  with pytest.raises(ValueError, match="holds 0 records"):
    sampling.EpochShuffle(0, 1)
  with pytest.raises(ValueError, match="seed is -1"):
    sampling.EpochShuffle(3, -1)
