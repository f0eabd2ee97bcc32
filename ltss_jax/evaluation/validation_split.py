"""The validation images as a run's config feeds them to its model."""

from collections.abc import Sequence

import jax
import ml_collections

from input_pipeline import prepared
from input_pipeline.validation_batches import ValidationBatches
from ltss_jax.dataset import Dataset


def batches(
  dataset: Dataset,
  options: ml_collections.ConfigDict,
  *,
  shape_multiple: int,
  only: Sequence[int] | None = None,
  on_one_process: bool = False,
) -> ValidationBatches:
  """This process's share of the validation images, or of those of the given records.

  Args:
    dataset: data set of the run.
    options: `config.eval`.
    shape_multiple: multiple that input shapes are padded to; 1: not at all.
    only: records to read, if not all.
    on_one_process: whether this process reads all of them, in batches of as many rows as its share
      has, so that the same programs serve.
  """
  counts, processes = dataset.val_counts, jax.process_count()
  return ValidationBatches(
    prepared.open_source(dataset.directory, "val"),
    (counts.height, counts.width),
    batch_size=options.batch_size // (processes if on_one_process else 1),
    min_size=options.min_size,
    max_size=options.max_size,
    process_index=0 if on_one_process else jax.process_index(),
    process_count=1 if on_one_process else processes,
    shape_multiple=shape_multiple,
    half_even=options.round_half_even,
    only=only,
  )
