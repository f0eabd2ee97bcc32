import json
import shutil

import numpy as np
import pytest

from input_pipeline import class_stats, datasets, prepared
from input_pipeline.stats import tail_statistics, text


@pytest.fixture(name="published_directory")
def _published_directory(prepared_directory, tmp_path):
  """The small data set with the name and the classes of MHP-v2-LT."""
  directory = shutil.copytree(prepared_directory, tmp_path / "1.0.0")
  prepared.write_metadata(directory, datasets.find_spec("mhp_v2_lt").class_table.metadata)
  prepared.write_sums(directory)
  return directory


def test_summary_of_prepared_data_by_hand(prepared_directory):
  summary = tail_statistics.summary(tail_statistics.from_directory(prepared_directory))
  assert (summary["num_classes"], summary["groups_from"]) == (4, "train")
  assert summary["official"] is None and summary["comparison"] is None
  train = summary["splits"]["train"]
  assert (train["num_images"], train["classes_without_image"]) == (4, 1)
  # Images per class 4 2 0 1: ascending 0 1 2 4, cumulative 0 1 3 7: (5 - 2 * 11 / 7) / 4.
  assert train["image_level"] == {
    "gini": pytest.approx((5 - 22 / 7) / 4),
    "group_borders": [0, 1],
    "group_sizes": {"rare": 0, "common": 1, "frequent": 3},
    "border_frequency": 0,
    "smallest": 0,
    "median": 1.5,
    "largest": 4,
  }
  # Shares 1/2 + 3/4 + 1/4 + 1 = 5/2, 1/2 + 1/2 = 1, 0, 1/4: cumulative 0 1/4 5/4 15/4.
  assert train["pixel_level"]["gini"] == pytest.approx((5 - 2 * 5.25 / 3.75) / 4)
  assert train["pixel_level"]["group_borders"] == [0, 0.25]
  assert train["images_per_number_of_classes"] == [0, 2, 1, 1]
  assert train["classes_per_image"] == 7 / 4
  assert summary["splits"]["val"]["image_level"]["gini"] == 0
  assert summary["splits"]["val"]["images_per_number_of_classes"] == [0, 0, 0, 0, 1]
  assert summary["classes"][3] == {
    "train_id": 3,
    "dataset_id": 3,
    "name": "Straße",
    "image_level_group": "frequent",
    "pixel_level_group": "frequent",
    "train_images": 1,
    "train_pixel_share_sum": 0.25,
    "val_images": 1,
    "val_pixel_share_sum": 0.25,
  }
  assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("name", ["ade20k_full", "coco_stuff_lt", "mhp_v2_lt"])
def test_summary_of_official_table(name):
  stats = datasets.find_spec(name).official_stats
  summary = tail_statistics.summary(tail_statistics.from_table(name))
  assert summary["groups_from"] == "official"
  assert summary["splits"] == {} and summary["comparison"] is None
  for level, counts in tail_statistics.level_counts(stats).items():
    values = summary["official"][level]
    assert values["gini"] == class_stats.gini(counts)
    groups = [row[f"{level}_group"] for row in summary["classes"]]
    assert {g: groups.count(g) for g in class_stats.GROUP_NAMES} == values["group_sizes"]
  assert [row["official_images"] for row in summary["classes"]] == stats.images_with_class.tolist()
  assert json.loads(json.dumps(summary)) == summary


def test_prepared_data_is_compared_with_the_official_table(published_directory):
  statistics = tail_statistics.from_directory(published_directory)
  official = datasets.find_spec("mhp_v2_lt").official_stats
  summary = tail_statistics.summary(statistics)
  assert summary["groups_from"] == "official"
  assert summary["official"]["image_level"]["group_sizes"] == {
    "rare": 11,
    "common": 12,
    "frequent": 36,
  }
  comparison = summary["comparison"]
  assert (comparison["num_images"], comparison["official_num_images"]) == (4, 6931)
  own = np.zeros(59)
  own[[0, 1, 3]] = 4, 2, 1
  values = comparison["image_level"]
  assert values["total_difference"] == np.abs(official.images_with_class - own).sum()
  # Classes 0, 1 and 3 are frequent on both sides; the own borders are 0, so that the other 56 are
  # frequent too, and 23 of them are not so officially.
  assert values["classes_in_another_group"] == 23
  assert 0 < values["rank_correlation"] < 1
  assert summary["classes"][0]["train_images"] == 4
  assert summary["classes"][0]["official_images"] == 6931


def test_other_classes_under_a_published_name_are_not_compared(published_directory, caplog):
  metadata = prepared.ClassMetadata("mhp_v2_lt", ("a", "b", "c", "d"), (0, 1, 2, 3), 255)
  prepared.write_metadata(published_directory, metadata)
  prepared.write_sums(published_directory)
  statistics = tail_statistics.from_directory(published_directory)
  assert statistics.official is None and statistics.groups_from == "train"
  assert "its classes are not those of the official table" in caplog.text


def test_published_name_without_counts_uses_the_data(published_directory):
  table = datasets.find_spec("mhp_v2").class_table
  prepared.write_metadata(published_directory, table.metadata)
  prepared.write_sums(published_directory)
  summary = tail_statistics.summary(tail_statistics.from_directory(published_directory))
  assert summary["groups_from"] == "train" and summary["comparison"] is None


def test_table_without_counts_is_an_error():
  with pytest.raises(ValueError, match="No official counts .* ade20k;.*: ade20k_full, coco_stuff"):
    tail_statistics.from_table("ade20k")


def test_incomplete_directory_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"missing: classes.json, .*<data_dir>/<data set>"):
    tail_statistics.from_directory(tmp_path)


def test_split_without_labelled_pixels_has_no_gini(prepared_directory, tmp_path):
  directory = shutil.copytree(prepared_directory, tmp_path / "1.0.0")
  counts = class_stats.PixelCounts.from_rows([(2, 2)], [([], [])])
  prepared.write_pixel_counts(directory, "val", counts)
  prepared.write_sums(directory)
  summary = tail_statistics.summary(tail_statistics.from_directory(directory))
  assert summary["splits"]["val"]["image_level"]["gini"] is None
  assert summary["splits"]["val"]["images_per_number_of_classes"] == [1]
  assert "image level: Gini -, rare" in text.describe(summary)


def test_description_names_what_differs(published_directory):
  lines = text.describe(
    tail_statistics.summary(tail_statistics.from_directory(published_directory))
  ).splitlines()
  assert lines[0] == "mhp_v2_lt: 59 classes, groups by the counts of the official table"
  assert lines[1] == "official table: 6931 images"
  assert lines[2].startswith(
    "  image level: Gini 0.7018, rare/common/frequent 11/12/36, borders 16"
  )
  assert "train: 4 images, 1.75 classes an image, 56 classes without an image" in lines
  (start,) = (index for index, line in enumerate(lines) if line.startswith("train against"))
  assert "4 images, officially 6931" in lines[start]
  assert "rank correlation 0." in lines[start + 1] and "23 classes in another" in lines[start + 1]
  # The table begins with the class in the most images.
  columns = lines[lines.index("") + 2].split()
  assert columns == [
    "0",
    "Background",
    "frequent",
    "frequent",
    "6931",
    "4279.453",
    "4",
    "2.500",
    "1",
    "0.250",
  ]
  assert len(lines) - lines.index("") == 61
