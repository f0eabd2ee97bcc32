import numpy as np
import pytest

from input_pipeline import datasets

NUM_CLASSES = {
  "ade20k": 150,
  "ade20k_full": 847,
  "coco_stuff": 171,
  "coco_stuff_lt": 171,
  "mhp_v2": 59,
  "mhp_v2_lt": 59,
}


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_table_has_published_classes(name):
  assert datasets.find_spec(name).class_table.metadata.num_classes == NUM_CLASSES[name]


@pytest.mark.parametrize("name", datasets.PUBLISHED)
def test_classes_differ(name):
  metadata = datasets.find_spec(name).class_table.metadata
  assert metadata.name == name
  assert len(set(metadata.dataset_ids)) == metadata.num_classes
  assert len(set(metadata.class_names)) == metadata.num_classes
  assert metadata.ignore_label == (65535 if metadata.num_classes > 255 else 255)


@pytest.mark.parametrize("name", ["ade20k", "coco_stuff", "mhp_v2"])
def test_tables_of_balanced_data_sets_have_no_counts(name):
  assert datasets.find_spec(name).official_stats is None


@pytest.mark.parametrize("name", ["ade20k_full", "coco_stuff_lt", "mhp_v2_lt"])
def test_counts_of_long_tailed_data_sets(name):
  stats = datasets.find_spec(name).official_stats
  assert stats.images_with_class.shape == stats.pixel_share_sum.shape == (NUM_CLASSES[name],)
  assert stats.images_with_class.min() >= 1
  assert np.all(stats.images_with_class <= stats.num_images)
  # A class covers at most the whole of each image that shows it.
  assert np.all(stats.pixel_share_sum <= stats.images_with_class)
  # The official sums were rounded to float32 while adding: MHP-v2-LT has 6931.008 of 6931 images.
  assert stats.pixel_share_sum.sum() <= stats.num_images * (1 + 1e-5)


def test_values_of_single_rows():
  table = datasets.find_spec("ade20k_full").class_table
  assert table.metadata.class_names[1] == "building, edifice"
  assert table.metadata.dataset_ids[1] == 312
  assert table.train_stats.images_with_class[1] == 7243
  assert table.train_stats.pixel_share_sum[1] == 2413.8677
  assert (table.train_stats.num_images, table.num_val_images) == (25_574, 2_000)


@pytest.mark.parametrize("name", ["mhp_v2", "mhp_v2_lt"])
def test_flip_pairs_swap_left_and_right(name):
  metadata = datasets.find_spec(name).class_table.metadata
  names = [name.lower() for name in metadata.class_names]
  sided = {index for index, name in enumerate(names) if "left" in name or "right" in name}
  assert {index for pair in metadata.flip_pairs for index in pair} == sided
  for first, second in metadata.flip_pairs:
    assert names[first].replace("left", "right") == names[second]


def test_arrays_are_read_only():
  stats = datasets.find_spec("mhp_v2_lt").official_stats
  with pytest.raises(ValueError, match="read-only"):
    stats.images_with_class[0] = 1
