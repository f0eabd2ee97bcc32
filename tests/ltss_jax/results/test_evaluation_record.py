import numpy as np
import pytest

from ltss_jax.results import evaluation_record
from ltss_jax.workdir import atomic_file

NAMES = ("sky", "tröß", "車", "never labelled", "absent")


def make_record(counts, names=NAMES, **arguments):
  defaults = {
    "train_images": np.array([1200, 40, 40, 7, 0]),
    "train_pixel_share": np.array([512.25, 3.0000004, 9.5, 0.125, 0.0]),
    "image_groups": np.array([2, 1, 1, 0, 0]),
    "pixel_groups": np.array([2, 2, 2, 0, 0]),
  }
  return evaluation_record.make_record(counts, class_names=names, **(defaults | arguments))


def confusion():
  counts = np.zeros((5, 5), np.int64)
  counts[0] = [6, 0, 0, 1, 0]
  counts[1] = [1, 2, 0, 0, 0]
  counts[2] = [0, 1, 3, 0, 0]
  return counts


def test_record_by_hand():
  record = make_record(confusion())
  # IoU 6/8, 2/4, 3/4, 0/1, none
  assert {key: value for key, value in record.items() if key != "per_class"} == {
    "mIoU": 50.0,  # (3/4 + 2/4 + 3/4) / 4
    "fwIoU": 69.6429,  # (7 * 3/4 + 3 * 2/4 + 4 * 3/4) / 14
    "mACC": 75.7937,  # (6/7 + 2/3 + 3/4) / 3
    "pACC": 78.5714,  # 11 / 14
    "image_level": {"rare": 0.0, "common": 62.5, "frequent": 75.0},
    "pixel_level": {"rare": 0.0, "common": None, "frequent": 66.6667},
  }
  assert len(record["per_class"]) == 5
  assert record["per_class"][1] == {
    "class_id": 1,
    "name": "tröß",
    "train_images": 40,
    "train_pixel_share": 3.0,
    "image_group": "common",
    "pixel_group": "frequent",
    "IoU": 50.0,
    "accuracy": 66.6667,
  }
  assert (record["per_class"][3]["IoU"], record["per_class"][3]["accuracy"]) == (0.0, None)
  assert (record["per_class"][4]["IoU"], record["per_class"][4]["accuracy"]) == (None, None)


def test_split_without_labels_has_no_numbers():
  record = make_record(np.zeros((5, 5), int))
  assert [record[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")] == [None] * 4
  assert record["image_level"] == {"rare": None, "common": None, "frequent": None}


def test_equal_counts_give_equal_files(tmp_path):
  first, second = tmp_path / "a" / "eval" / "800.json", tmp_path / "b.json"
  evaluation_record.write_record(make_record(confusion()), first)
  evaluation_record.write_record(make_record(confusion()), second)
  assert first.read_bytes() == second.read_bytes()
  assert atomic_file.read_json(first) == make_record(confusion())
  assert "車" in first.read_text(encoding="utf-8")


def test_writing_replaces_and_leaves_nothing_behind(tmp_path):
  evaluation_record.write_record({"mIoU": 1.0}, tmp_path / "3.json")
  evaluation_record.write_record({"mIoU": 2.0}, tmp_path / "3.json")
  assert atomic_file.read_json(tmp_path / "3.json") == {"mIoU": 2.0}
  assert [entry.name for entry in tmp_path.iterdir()] == ["3.json"]


def test_records_come_back_and_damaged_ones_are_named(tmp_path):
  path = tmp_path / "3.json"
  evaluation_record.write_record(make_record(confusion()), path)
  assert atomic_file.read_json(path) == make_record(confusion())
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r"3\.json is not readable as JSON"):
    atomic_file.read_json(path)


def test_nan_is_no_json(tmp_path):
  with pytest.raises(ValueError, match="JSON"):
    evaluation_record.write_record({"mIoU": float("nan")}, tmp_path / "3.json")
  assert list(tmp_path.iterdir()) == []


def test_summary_is_one_line():
  assert evaluation_record.summary_line(make_record(confusion())) == (
    "mIoU 50.00, fwIoU 69.64, mACC 75.79, pACC 78.57; mIoU of rare/common/frequent classes:"
    " image level 0.00/62.50/75.00, pixel level 0.00/-/66.67"
  )


def test_table_is_aligned_and_sorted_by_frequency():
  text = evaluation_record.format_table(make_record(confusion()))
  assert text.splitlines() == [
    "class           train images  image level  pixel level    IoU  accuracy",
    "sky                    1,200  frequent     frequent     75.00     85.71",
    "tröß                      40  common       frequent     50.00     66.67",
    "車                        40  common       frequent     75.00     75.00",
    "never labelled             7  rare         rare          0.00         -",
    "absent                     0  rare         rare             -         -",
    "",
    "mIoU                       rare     common   frequent",
    "image level (classes)  0.00 (2)  62.50 (2)  75.00 (1)",
    "pixel level (classes)  0.00 (2)      - (0)  66.67 (3)",
    "",
    " mIoU  fwIoU   mACC   pACC",
    "50.00  69.64  75.79  78.57",
  ]


def test_an_evaluation_that_is_not_plain_says_so():
  plain = {"min_size": 512, "scales": [], "flip": False, "window": 0, "logit_adjustment": 0.0}
  record = make_record(confusion()) | {"eval": plain}
  assert (
    evaluation_record.not_plain(record)
    == evaluation_record.not_plain(make_record(confusion()))
    == ""
  )
  record["eval"] = plain | {"scales": [256, 512], "flip": True}
  assert evaluation_record.not_plain(record) == "eval.scales=[256, 512], eval.flip=True"
  last = evaluation_record.format_table(record).splitlines()[-1]
  assert last == "Evaluated with eval.scales=[256, 512], eval.flip=True"


def test_long_names_are_cut_to_the_column():
  names = ("building, edifice, and whatever else stands", "車" * 30, "e\u0301" * 36, "d", "e")
  lines = evaluation_record.format_table(make_record(confusion(), names)).splitlines()
  assert lines[1].startswith("building, edifice, and whatever els…  ")
  assert lines[2].startswith("車" * 17 + "…" + "  ")
  assert lines[3].startswith("e\u0301" * 36 + "  ")


def test_sizes_must_agree():
  with pytest.raises(ValueError, match="confusion is of 3 classes, but there are 5"):
    make_record(np.ones((3, 3), int))
  with pytest.raises(ValueError, match="train_images is of 2 classes, but there are 5"):
    make_record(confusion(), train_images=np.ones(2, int))
