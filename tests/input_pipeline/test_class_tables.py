import numpy as np
import pytest

from input_pipeline import class_tables

NUM_CLASSES = {
  "ade20k": 150,
  "ade20k_full": 847,
  "coco_stuff": 171,
  "coco_stuff_lt": 171,
  "mhp_v2": 59,
  "mhp_v2_lt": 59,
}


@pytest.mark.parametrize("name", class_tables.NAMES)
def test_table_has_published_classes(name):
  table = class_tables.load_class_table(name)
  assert table.metadata.name == name
  assert table.metadata.num_classes == NUM_CLASSES[name]
  assert len(set(table.metadata.dataset_ids)) == NUM_CLASSES[name]
  assert len(set(table.metadata.class_names)) == NUM_CLASSES[name]
  assert table.metadata.ignore_label == (65535 if name == "ade20k_full" else 255)


@pytest.mark.parametrize("name", class_tables.NAMES)
def test_only_long_tailed_tables_have_counts(name):
  stats = class_tables.load_class_table(name).train_stats
  if name not in ("ade20k_full", "coco_stuff_lt", "mhp_v2_lt"):
    assert stats is None
    return
  assert stats.images_with_class.shape == stats.pixel_share_sum.shape == (NUM_CLASSES[name],)
  assert stats.images_with_class.min() >= 1
  assert np.all(stats.images_with_class <= stats.num_images)
  # A class covers at most the whole of each image that shows it.
  assert np.all(stats.pixel_share_sum <= stats.images_with_class)
  # The official sums were rounded to float32 while adding: MHP-v2-LT has 6931.008 of 6931 images.
  assert stats.pixel_share_sum.sum() <= stats.num_images * (1 + 1e-5)


def test_values_of_single_rows():
  table = class_tables.load_class_table("ade20k_full")
  assert table.metadata.class_names[1] == "building, edifice"
  assert table.metadata.dataset_ids[1] == 312
  assert table.train_stats.images_with_class[1] == 7243
  assert table.train_stats.pixel_share_sum[1] == 2413.8677
  assert (table.train_stats.num_images, table.num_val_images) == (25_574, 2_000)


@pytest.mark.parametrize("name", ["mhp_v2", "mhp_v2_lt"])
def test_flip_pairs_swap_left_and_right(name):
  metadata = class_tables.load_class_table(name).metadata
  names = [name.lower() for name in metadata.class_names]
  sided = {index for index, name in enumerate(names) if "left" in name or "right" in name}
  assert {index for pair in metadata.flip_pairs for index in pair} == sided
  for first, second in metadata.flip_pairs:
    assert names[first].replace("left", "right") == names[second]


def test_arrays_are_read_only():
  stats = class_tables.load_class_table("mhp_v2_lt").train_stats
  with pytest.raises(ValueError, match="read-only"):
    stats.images_with_class[0] = 1


def test_wrong_name_suggests_nearest():
  with pytest.raises(ValueError, match="'coco_stuf_lt'; did you mean 'coco_stuff_lt'"):
    class_tables.load_class_table("coco_stuf_lt")
