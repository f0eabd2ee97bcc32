import numpy as np
import pytest

from ltss_jax.results import evaluation_result
from ltss_jax.workdir import atomic_file

NAMES = ("sky", "tröß", "車", "never labelled", "absent")


def make_result(counts, names=NAMES, **arguments):
  defaults = {
    "train_images": np.array([1200, 40, 40, 7, 0]),
    "train_pixel_share": np.array([512.25, 3.0000004, 9.5, 0.125, 0.0]),
    "image_groups": np.array([2, 1, 1, 0, 0]),
    "pixel_groups": np.array([2, 2, 2, 0, 0]),
  }
  return evaluation_result.make_result(counts, class_names=names, **(defaults | arguments))


def confusion():
  counts = np.zeros((5, 5), np.int64)
  counts[0] = [6, 0, 0, 1, 0]
  counts[1] = [1, 2, 0, 0, 0]
  counts[2] = [0, 1, 3, 0, 0]
  return counts


def test_result_by_hand():
  result = make_result(confusion())
  # IoU 6/8, 2/4, 3/4, 0/1, none
  assert {key: value for key, value in result.items() if key != "per_class"} == {
    "mIoU": 50.0,  # (3/4 + 2/4 + 3/4) / 4
    "fwIoU": 69.6429,  # (7 * 3/4 + 3 * 2/4 + 4 * 3/4) / 14
    "mACC": 75.7937,  # (6/7 + 2/3 + 3/4) / 3
    "pACC": 78.5714,  # 11 / 14
    "image_level": {"rare": 0.0, "common": 62.5, "frequent": 75.0},
    "pixel_level": {"rare": 0.0, "common": None, "frequent": 66.6667},
  }
  assert len(result["per_class"]) == 5
  assert result["per_class"][1] == {
    "class_id": 1,
    "name": "tröß",
    "train_images": 40,
    "train_pixel_share": 3.0,
    "image_group": "common",
    "pixel_group": "frequent",
    "IoU": 50.0,
    "accuracy": 66.6667,
  }
  assert (result["per_class"][3]["IoU"], result["per_class"][3]["accuracy"]) == (0.0, None)
  assert (result["per_class"][4]["IoU"], result["per_class"][4]["accuracy"]) == (None, None)


def test_split_without_labels_has_no_numbers():
  result = make_result(np.zeros((5, 5), int))
  assert [result[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")] == [None] * 4
  assert result["image_level"] == {"rare": None, "common": None, "frequent": None}


def test_equal_counts_give_equal_files(tmp_path):
  first, second = tmp_path / "a" / "eval" / "800.json", tmp_path / "b.json"
  evaluation_result.write_result(make_result(confusion()), first)
  evaluation_result.write_result(make_result(confusion()), second)
  assert first.read_bytes() == second.read_bytes()
  assert atomic_file.read_json(first) == make_result(confusion())
  assert "車" in first.read_text(encoding="utf-8")


def test_writing_replaces_and_leaves_nothing_behind(tmp_path):
  evaluation_result.write_result({"mIoU": 1.0}, tmp_path / "3.json")
  evaluation_result.write_result({"mIoU": 2.0}, tmp_path / "3.json")
  assert atomic_file.read_json(tmp_path / "3.json") == {"mIoU": 2.0}
  assert [entry.name for entry in tmp_path.iterdir()] == ["3.json"]


def test_results_come_back_and_damaged_ones_are_named(tmp_path):
  path = tmp_path / "3.json"
  evaluation_result.write_result(make_result(confusion()), path)
  assert atomic_file.read_json(path) == make_result(confusion())
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r"3\.json is not readable as JSON"):
    atomic_file.read_json(path)


def test_nan_is_no_json(tmp_path):
  with pytest.raises(ValueError, match="JSON"):
    evaluation_result.write_result({"mIoU": float("nan")}, tmp_path / "3.json")
  assert list(tmp_path.iterdir()) == []


def test_summary_is_one_line():
  assert evaluation_result.summary_line(make_result(confusion())) == (
    "mIoU 50.00, fwIoU 69.64, mACC 75.79, pACC 78.57; mIoU of rare/common/frequent classes:"
    " image level 0.00/62.50/75.00, pixel level 0.00/-/66.67"
  )


def test_table_is_aligned_and_sorted_by_frequency():
  text = evaluation_result.format_table(make_result(confusion()))
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
  result = make_result(confusion()) | {"eval": plain}
  assert (
    evaluation_result.not_plain(result)
    == evaluation_result.not_plain(make_result(confusion()))
    == ""
  )
  result["eval"] = plain | {"scales": [256, 512], "flip": True}
  assert evaluation_result.not_plain(result) == "eval.scales=[256, 512], eval.flip=True"
  last = evaluation_result.format_table(result).splitlines()[-1]
  assert last == "Evaluated with eval.scales=[256, 512], eval.flip=True"


def test_long_names_are_cut_to_the_column():
  names = ("building, edifice, and whatever else stands", "車" * 30, "e\u0301" * 36, "d", "e")
  lines = evaluation_result.format_table(make_result(confusion(), names)).splitlines()
  assert lines[1].startswith("building, edifice, and whatever els…  ")
  assert lines[2].startswith("車" * 17 + "…" + "  ")
  assert lines[3].startswith("e\u0301" * 36 + "  ")


def test_sizes_must_agree():
  with pytest.raises(ValueError, match="confusion is of 3 classes, but there are 5"):
    make_result(np.ones((3, 3), int))
  with pytest.raises(ValueError, match="train_images is of 2 classes, but there are 5"):
    make_result(confusion(), train_images=np.ones(2, int))
