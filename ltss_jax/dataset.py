"""The prepared data set of a run: its sources, classes and long-tail statistics."""

import dataclasses

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from configs import common
from input_pipeline import class_stats, datasets, prepare, prepared


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What training and evaluation read.

  Attributes:
    metadata: class names, ignore label, flip pairs.
    directory: directory of the prepared files.
    train_counts: pixels per class of every training image.
    val_counts: pixels per class of every validation image.
    train_stats: per-class statistics of the training split: the official ones where they are
      published, else those of the data.
  """

  metadata: prepared.ClassMetadata
  directory: epath.Path
  train_counts: class_stats.PixelCounts
  val_counts: class_stats.PixelCounts
  train_stats: class_stats.ClassStats

  @property
  def image_groups(self) -> np.ndarray:
    """Group of each class by number of training images, index into GROUP_NAMES [C]."""
    return class_stats.frequency_groups(self.train_stats.images_with_class)

  @property
  def pixel_groups(self) -> np.ndarray:
    """Group of each class by summed pixel share, index into GROUP_NAMES [C]."""
    return class_stats.frequency_groups(self.train_stats.pixel_share_sum)


def prepare_run(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, Dataset]:
  """Checks the config, loads its data and fills the fields that follow from them.

  Args:
    config: config of a file in configs/, with the command line's values.

  Returns:
    (resolved config, data set).
  """
  common.validate(config)
  dataset = load_dataset(config)
  config = common.finalize(
    config,
    num_train_images=len(dataset.train_counts),
    median_height=float(np.median(dataset.train_counts.height)),
    median_width=float(np.median(dataset.train_counts.width)),
  )
  config.data.ignore_label = dataset.metadata.ignore_label
  common.validate(config)  # Some values are of use only together with those that the data gave.
  return config, dataset


def load_dataset(config: ml_collections.ConfigDict) -> Dataset:
  """Finds the prepared data; `shapes_lt` and `folder` are prepared where they are not yet.

  Process 0 prepares first; a process that does not see its files then prepares its own copy.

  Args:
    config: config of the run.

  Raises:
    FileNotFoundError, ValueError: the data are not there or not as they should be.
  """

  def prepare_data() -> epath.Path:
    data = config.data
    return prepare.ensure_prepared(
      data.name, epath.Path(data.dir).expanduser(), data.root, data.ignore_label
    )

  directory = prepare_data() if jax.process_index() == 0 else None
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("data are prepared")
  directory = directory or prepare_data()
  metadata = prepared.read_metadata(directory)
  train_counts = prepared.read_pixel_counts(directory, "train")
  # A long-tailed part that the user made of a published data set has another name than that one.
  is_official = metadata.name == config.data.name
  stats = datasets.find_spec(config.data.name).official_stats if is_official else None
  stats = stats or class_stats.class_stats(train_counts, metadata.num_classes)
  val_counts = prepared.read_pixel_counts(directory, "val")
  dataset = Dataset(metadata, directory, train_counts, val_counts, stats)
  _log_summary(dataset)
  return dataset


def class_metadata(config: ml_collections.ConfigDict) -> prepared.ClassMetadata:
  """What the labels mean; only a folder that is gone needs prepared data for that.

  Args:
    config: config of the run.

  Raises:
    FileNotFoundError, ValueError: the folder is not as it should be.
  """
  data = config.data
  data_dir = epath.Path(data.dir).expanduser()
  return datasets.find_spec(data.name).read_classes(data_dir, data.root, data.ignore_label)


def train_stats(config: ml_collections.ConfigDict) -> class_stats.ClassStats:
  """Statistics of the training split; where official ones are published, no data need be there.

  Args:
    config: config of the run.

  Raises:
    FileNotFoundError, ValueError: the data are needed and not there, or not as they should be.
  """
  return datasets.find_spec(config.data.name).official_stats or load_dataset(config).train_stats


def _log_summary(dataset: Dataset) -> None:
  stats = dataset.train_stats
  logging.info(
    "Data: %s, %d classes (ignore label %d), %d training and %d validation images in %s",
    dataset.metadata.name,
    dataset.metadata.num_classes,
    dataset.metadata.ignore_label,
    len(dataset.train_counts),
    len(dataset.val_counts),
    dataset.directory,
  )
  sizes = "/".join(str(np.sum(dataset.image_groups == g)) for g in range(3))
  logging.info(
    "Long tail: Gini %.3f (images), %.3f (pixels); rare/common/frequent classes %s; "
    "frequency at the rare border t = %.4g",
    class_stats.gini(stats.images_with_class),
    class_stats.gini(stats.pixel_share_sum),
    sizes,
    class_stats.frequency_threshold(stats.images_with_class, stats.num_images),
  )
