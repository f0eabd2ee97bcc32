"""The whole data set, built once for all tests of this folder."""

import time

import pytest

from input_pipeline.shapes_lt import shapes_lt_dataset_builder


@pytest.fixture(scope="session")
def built(tmp_path_factory):
  """(prepared directory, processor seconds that the preparation took)."""
  # Processor time: other programs on the machine do not lengthen it.
  start = time.process_time()
  builder = shapes_lt_dataset_builder.ShapesLt(data_dir=tmp_path_factory.mktemp("data"))
  builder.download_and_prepare()
  return builder.data_path, time.process_time() - start


@pytest.fixture(scope="session")
def prepared_directory(built):
  return built[0]
