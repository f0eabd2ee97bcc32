"""Rows of a report's tables; the template gives them their looks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ltss_jax.report import run_files
from ltss_jax.results import evaluated_data, evaluation_result, metrics

MAX_PAIRS = 50
_LEVELS = ("image", "pixel")


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of a table that can be sorted.

  Attributes:
    text: the text shown.
    key: sort key of the column; "" stands at the end in either direction.
  """

  text: str
  key: str = ""


@dataclasses.dataclass(frozen=True)
class ClassRow:
  """A class's row: its name, groups at both levels, and cells under `class_columns`."""

  name: str
  image_group: str
  pixel_group: str
  cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Pair:
  """Pixels of one class that were taken for another."""

  label: str
  prediction: str
  share: Cell
  pixels: Cell
  group: str


def number(value: float | None, digits: int = 2) -> str:
  """A number for reading: "1,234.50"; "–" for none."""
  return "–" if value is None else f"{value:,.{digits}f}"


def _cell(value: float | None, digits: int = 2, signed: bool = False) -> Cell:
  if value is None:
    return Cell("–")
  text = f"{value:+,.{digits}f}" if signed else number(value, digits)
  return Cell(text, repr(value))


def totals(runs: Sequence[run_files.Run]) -> list[dict[str, Any]]:
  """A row a run: totals and groups, each with its difference to the first run's.

  Returns:
    Dicts of "label", "evaluated" and "cells": (value, difference) of mIoU, fwIoU, mACC, pACC, then
    rare, common, frequent at image and at pixel level; differences are "" in the first row.
  """
  rows = []
  for run in runs:
    cells = []
    for value, first in zip(_scores(run.result), _scores(runs[0].result), strict=True):
      known = value is not None and first is not None and run is not runs[0]
      cells.append(
        (number(value), f"{value - first:+.2f}".replace("-0.00", "+0.00") if known else "")
      )
    evaluated = " with ".join(
      filter(None, (str(run.evaluated), evaluation_result.not_plain(run.result)))
    )
    if not _of_same_images(run.result, runs[0].result):
      evaluated += f" on other images ({run.result['data']['name']})"
    rows.append({"label": run.label, "evaluated": evaluated, "cells": cells})
  return rows


def _of_same_images(result: dict[str, Any], first: dict[str, Any]) -> bool:
  """Whether nothing is known that tells the validation images of two results apart."""
  found = evaluated_data.differences(first.get("data", {}), result.get("data", {}))
  return not any(entry.startswith("val_") for entry in found)


def _scores(result: dict[str, Any]) -> list[float | None]:
  levels = (result[f"{level}_level"] for level in _LEVELS)
  groups = [values[group] for values in levels for group in metrics.GROUP_NAMES]
  return [*(result[name] for name in evaluation_result.TOTALS), *groups]


def groups(result: dict[str, Any]) -> list[dict[str, Any]]:
  """A row a level: mIoU and number of classes of each group."""
  rows = []
  for level in _LEVELS:
    members = [entry[f"{level}_group"] for entry in result["per_class"]]
    cells = [
      (group, number(result[f"{level}_level"][group]), members.count(group))
      for group in metrics.GROUP_NAMES
    ]
    rows.append({"level": level, "cells": cells})
  return rows


def class_columns(runs: Sequence[run_files.Run], with_mistakes: bool) -> list[str]:
  """Headings of the class table's cells."""
  columns = ["IoU", "accuracy", "train images", "train pixels"]
  columns += [heading for run in runs[1:] for heading in (f"IoU {run.label}", "difference")]
  return [*columns, "mostly taken for"] if with_mistakes else columns


def class_rows(runs: Sequence[run_files.Run]) -> list[ClassRow]:
  """A row a class of the first run, with the IoU of the others where they know the class."""
  first = runs[0]
  mistakes = None if first.confusion is None else _mistakes(first)
  others = [{e["name"]: e["IoU"] for e in run.result["per_class"]} for run in runs[1:]]
  rows = []
  for c, entry in enumerate(first.result["per_class"]):
    iou = entry["IoU"]
    cells = [
      _cell(iou),
      _cell(entry["accuracy"]),
      _cell(entry["train_images"], 0),
      _cell(entry["train_pixel_share"], 3),
    ]
    for other in others:
      theirs = other.get(entry["name"])
      known = iou is not None and theirs is not None
      cells += [_cell(theirs), _cell(theirs - iou if known else None, signed=True)]
    if mistakes is not None:
      cells.append(mistakes[c])
    rows.append(ClassRow(entry["name"], entry["image_group"], entry["pixel_group"], cells))
  return rows


def _mistakes(run: run_files.Run) -> list[Cell]:
  """What each class is mostly taken for, with the share of its pixels."""
  wrong = run.confusion.copy()
  np.fill_diagonal(wrong, 0)
  labelled = run.confusion.sum(1)
  cells = []
  for c, prediction in enumerate(wrong.argmax(1)):
    if wrong[c, prediction]:
      share = wrong[c, prediction] / labelled[c]
      percent = f"{share:.0%}" if share >= 0.005 else "<1%"
      cells.append(Cell(f"{run.class_names[prediction]} ({percent})", repr(float(share))))
    else:
      cells.append(Cell("–"))
  return cells


def confusion_pairs(run: run_files.Run) -> list[Pair]:
  """The MAX_PAIRS pairs (label, prediction) that take the largest share of the label's pixels.

  Shares, as classes count alike in mIoU however many pixels they have.
  """
  if run.confusion is None:
    return []
  shares = run.confusion / np.maximum(run.confusion.sum(1, keepdims=True), 1)
  np.fill_diagonal(shares, 0)
  pairs = []
  for cell in np.argsort(-shares, axis=None, kind="stable")[:MAX_PAIRS]:
    label, prediction = np.unravel_index(cell, shares.shape)
    if shares[label, prediction] == 0:
      break
    pairs.append(
      Pair(
        run.class_names[label],
        run.class_names[prediction],
        _cell(100 * float(shares[label, prediction]), 1),
        _cell(int(run.confusion[label, prediction]), 0),
        run.result["per_class"][label]["image_group"],
      )
    )
  return pairs


def config_rows(runs: Sequence[run_files.Run]) -> list[dict[str, Any]]:
  """A row a config field: its name, the values of all runs, and whether they differ."""
  names = sorted(set().union(*(run.config for run in runs)))
  rows = []
  for name in names:
    values = [str(run.config.get(name, "absent")) for run in runs]
    rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
  return rows
