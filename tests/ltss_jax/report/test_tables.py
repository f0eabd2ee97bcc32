"""Rows of a report's tables against numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest

from ltss_jax.report import run_files, tables
from ltss_jax.results import evaluation_result

CONFUSION = np.array([[90, 10, 0], [5, 0, 15], [0, 0, 0]])  # sky, grass, roof


@pytest.fixture(name="run")
def _run(workdir):
  result = evaluation_result.make_result(
    CONFUSION,
    class_names=["sky", "grass", "roof"],
    train_images=np.array([1000, 10, 1]),
    train_pixel_share=np.array([70.5, 2.25, 0]),
    image_groups=np.array([2, 1, 0]),
    pixel_groups=np.array([2, 2, 0]),
  )
  run = run_files.read_run(workdir)
  return dataclasses.replace(run, result=result, confusion=CONFUSION)


def test_class_rows(run):
  sky, grass, roof = tables.class_rows([run])
  assert (sky.name, sky.image_group, roof.pixel_group) == ("sky", "frequent", "rare")
  assert [cell.text for cell in sky.cells] == ["85.71", "90.00", "1,000", "70.500", "grass (10%)"]
  assert [cell.text for cell in grass.cells[-1:]] == ["roof (75%)"]
  # roof is predicted but not labelled: an IoU of 0, no accuracy, taken for nothing.
  assert [cell.text for cell in roof.cells] == ["0.00", "–", "1", "0.000", "–"]
  assert [float(cell.key) for cell in sky.cells[:3]] == [85.7143, 90, 1000]
  assert roof.cells[1].key == ""
  columns = tables.class_columns([run], with_mistakes=True)
  assert len(columns) == len(sky.cells) and columns[-1] == "mostly taken for"


def test_other_runs_are_matched_by_the_name_of_the_class(run):
  classes = [run.result["per_class"][1] | {"IoU": 12.5}, run.result["per_class"][0] | {"IoU": 90.0}]
  other = dataclasses.replace(run, label="other", result=run.result | {"per_class": classes})
  sky, grass, roof = tables.class_rows([run, other])
  assert [cell.text for cell in sky.cells[4:6]] == ["90.00", "+4.29"]
  assert [cell.text for cell in grass.cells[4:6]] == ["12.50", "+12.50"]
  assert [cell.text for cell in roof.cells[4:6]] == ["–", "–"]
  columns = tables.class_columns([run, other], with_mistakes=True)
  assert columns[4:] == ["IoU other", "difference", "mostly taken for"]


def test_scores_on_other_images_say_so(run):
  data = {"name": "photos", "train_labels": "1", "val_images": 7, "val_labels": "ab"}
  own, trained_elsewhere, rainy = (
    dataclasses.replace(run, result=run.result | {"data": data | changes})
    for changes in ({}, {"train_labels": "2"}, {"name": "rainy", "val_labels": "cd"})
  )
  rows = tables.totals(
    [own, trained_elsewhere, run, rainy]
  )  # that of an older version says nothing
  assert [row["evaluated"] for row in rows] == [*["100"] * 3, "100 on other images (rainy)"]


def test_confused_pairs_are_ranked_by_the_share_of_the_label(run):
  pairs = tables.confusion_pairs(run)
  assert [(p.label, p.prediction, p.share.text, p.pixels.text) for p in pairs] == [
    ("grass", "roof", "75.0", "15"),
    ("grass", "sky", "25.0", "5"),
    ("sky", "grass", "10.0", "10"),
  ]
  assert tables.confusion_pairs(dataclasses.replace(run, confusion=None)) == []


def test_totals_and_groups(run):
  better = dataclasses.replace(run, result=run.result | {"mIoU": run.result["mIoU"] + 1})
  first, second = tables.totals([run, better])
  assert first["cells"][0] == ("28.57", "")
  assert second["cells"][0] == ("29.57", "+1.00")
  assert second["cells"][1][1] == "+0.00"
  image, pixel = tables.groups(run.result)
  assert image["cells"] == [("rare", "0.00", 1), ("common", "0.00", 1), ("frequent", "85.71", 1)]
  assert [count for _, _, count in pixel["cells"]] == [1, 0, 2]


def test_config_rows_mark_differences(run):
  other = dataclasses.replace(run, config={**run.config, "seed": 7, "new.field": 1})
  rows = {row["name"]: row for row in tables.config_rows([run, other])}
  assert rows["seed"] == {"name": "seed", "values": ["0", "7"], "differs": True}
  assert rows["new.field"]["values"] == ["absent", "1"]
  assert not rows["batch_size"]["differs"]
