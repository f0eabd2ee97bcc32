"""Figures of runs for a report: small enough for a phone, by matplotlib, inlined as SVG."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes as axes_lib, figure as figure_lib
from matplotlib.backends import backend_agg

from input_pipeline import class_stats, prepared
from input_pipeline.stats import tail_figures, tail_statistics
from ltss_jax.report import run_files
from ltss_jax.results import evaluation_result, metrics

# Of rare, common and frequent; they keep apart for the colour-blind, as do those of runs.
GROUP_COLORS = ("#d55e00", "#b07400", "#0072b2")
RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00")
_GROUP_MARKERS = ("v", "s", "o")
_SIZE = (4.4, 3.3)  # inches: text stays readable where the figure shrinks to a phone's width
_LEGEND = 9  # points, of the legends' text
_MAX_MARKERS = 15  # points of a curve that are marked; one alone would be no line
_MAX_LABEL = 24  # characters of a run's label; of a longer one its end


def data_uri(content: bytes, kind: str) -> str:
  """Bytes of an image as the source of an <img>; `kind` as in "svg+xml" and "png"."""
  return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: figure_lib.Figure) -> str:
  """A figure as a data URI; equal figures give equal text."""
  buffer = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": "report", "path.simplify_threshold": 0.2}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  return data_uri(buffer.getvalue(), "svg+xml")


def _new_axes() -> tuple[figure_lib.Figure, axes_lib.Axes]:
  """A figure without pyplot, which keeps state and asks for a screen."""
  figure = figure_lib.Figure(figsize=_SIZE, layout="constrained")
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots()
  axes.grid(color="#dddddd", linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def iou_by_frequency(result: dict[str, Any], level: str) -> figure_lib.Figure:
  """IoU of every class over its frequency in training, on a logarithmic axis.

  Args:
    result: result of an evaluation.
    level: "image" or "pixel": the counts that decide frequency and groups.

  Returns:
    A figure; classes without an IoU have no mark, those never seen stand at the left border.
  """
  field, title = evaluation_result.FREQUENCIES[level]
  scored = [entry for entry in result["per_class"] if entry["IoU"] is not None]
  seen = [entry[field] for entry in scored if entry[field] > 0]
  least = min(seen, default=1) / 2
  figure, axes = _new_axes()
  for group, color, marker in zip(metrics.GROUP_NAMES, GROUP_COLORS, _GROUP_MARKERS, strict=True):
    entries = [entry for entry in scored if entry[f"{level}_group"] == group]
    frequencies = [max(entry[field], least) for entry in entries]
    axes.scatter(
      frequencies,
      [entry["IoU"] for entry in entries],
      s=22,
      color=color,
      marker=marker,
      alpha=0.8,
      linewidths=0,
      label=group,
    )
    mean = result[f"{level}_level"][group]
    if entries and mean is not None:
      ends = [min(frequencies), max(frequencies)]
      axes.plot(ends, [mean, mean], color=color, linewidth=1.5, linestyle="--")
  if scored:
    axes.set_xscale("log")
  axes.set(xlabel=title, ylabel="IoU (%)", ylim=(-3, 103))
  # Above the axes: within them, rare classes with a high IoU would lie behind it.
  axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=_LEGEND)
  return figure


def losses(run: run_files.Run) -> figure_lib.Figure | None:
  """The training loss and its parts over the steps; None where no loss was logged."""
  names = dict.fromkeys(name for line in run.lines for name in line)
  names = [name for name in names if name == "loss" or name.startswith("loss_")]
  curves = {name: run_files.series(run, name) for name in sorted(names)}
  styles = {name: {"linewidth": 2 if name == "loss" else 1} for name in curves}
  return _curves(curves, styles, "training loss, weighted")


def validation(run: run_files.Run) -> figure_lib.Figure | None:
  """The mIoU of the evaluated steps, of all classes and of the groups by number of images."""
  steps = np.array([step for step, _ in run.history], np.float64)
  curves = {"all classes": (steps, [result["mIoU"] for _, result in run.history])}
  styles: dict[str, dict[str, Any]] = {"all classes": {"color": "#222222", "linewidth": 2}}
  for group, color, marker in zip(metrics.GROUP_NAMES, GROUP_COLORS, _GROUP_MARKERS, strict=True):
    curves[group] = (steps, [result["image_level"][group] for _, result in run.history])
    styles[group] = {"color": color, "marker": marker}
  return _curves(curves, styles, "validation mIoU (%), image level")


def metric(run: run_files.Run, name: str, title: str) -> figure_lib.Figure | None:
  """One logged metric over the steps; None where it was not logged."""
  return _curves({name: run_files.series(run, name)}, {}, title)


def compare_losses(runs: Sequence[run_files.Run]) -> figure_lib.Figure | None:
  """The training loss of several runs."""
  curves = {_short(run): run_files.series(run, "loss") for run in runs}
  return _curves(curves, _run_styles(runs), "training loss")


def compare_validation(runs: Sequence[run_files.Run]) -> figure_lib.Figure | None:
  """The mIoU of the evaluated steps of several runs."""
  curves = {
    _short(run): ([step for step, _ in run.history], [r["mIoU"] for _, r in run.history])
    for run in runs
  }
  return _curves(curves, _run_styles(runs), "validation mIoU (%)")


def _short(run: run_files.Run) -> str:
  return run.label if len(run.label) <= _MAX_LABEL else "…" + run.label[1 - _MAX_LABEL :]


def _run_styles(runs: Sequence[run_files.Run]) -> dict[str, dict[str, Any]]:
  return {
    _short(run): {"color": RUN_COLORS[i % len(RUN_COLORS)], "linestyle": ("-", "--")[i > 5]}
    for i, run in enumerate(runs)
  }


def _curves(
  curves: dict[str, tuple[Any, Any]], styles: dict[str, dict[str, Any]], title: str
) -> figure_lib.Figure | None:
  """Lines over the steps; None where no curve has a point."""
  figure, axes = _new_axes()
  for name, (steps, values) in curves.items():
    values = np.array(values, np.float64)  # None becomes nan, a gap
    if np.isfinite(values).any():
      style = {"linewidth": 1.5, "marker": "o", "markersize": 5} | styles.get(name, {})
      if len(values) >= _MAX_MARKERS:
        style["marker"] = None
      axes.plot(steps, values, label=name, **style)
  if not axes.lines:
    return None
  axes.set(xlabel="step", ylabel=title)
  if len(curves) > 1:
    axes.legend(fontsize=_LEGEND)
  return figure


def compare_groups(runs: Sequence[run_files.Run], level: str) -> figure_lib.Figure:
  """Bars of mIoU, of all classes and of each group at a level ("image" or "pixel")."""
  figure, axes = _new_axes()
  names = ("all", *metrics.GROUP_NAMES)
  width = 0.8 / len(runs)
  for i, run in enumerate(runs):
    result = run.result
    values = [result["mIoU"], *(result[f"{level}_level"][g] for g in metrics.GROUP_NAMES)]
    axes.bar(
      np.arange(len(names)) + (i - (len(runs) - 1) / 2) * width,
      [value or 0 for value in values],
      width,
      label=_short(run),
      color=RUN_COLORS[i % len(RUN_COLORS)],
      edgecolor="white",
    )
  axes.set_xticks(np.arange(len(names)), names)
  axes.set(ylabel=f"mIoU (%), {level} level")
  axes.margins(y=0.25)  # room for the legend
  axes.legend(fontsize=_LEGEND, ncols=2)
  return figure


def data_set(result: dict[str, Any], num_images: int) -> dict[str, figure_lib.Figure]:
  """Sorted class counts at both levels and Lorenz curves, of the counts that made the groups.

  Args:
    result: result of an evaluation.
    num_images: number of images of the training split.

  Returns:
    Figures under the names "image_level", "pixel_level" and "lorenz".
  """
  statistics = _statistics(result, num_images)
  figures = {
    level: tail_figures.class_frequency(statistics, [level]) for level in tail_statistics.LEVELS
  }
  figures["lorenz"] = tail_figures.lorenz(statistics)
  for figure in figures.values():
    figure.set_size_inches(*_SIZE)
    figure.axes[0].legend(fontsize=_LEGEND)
  return figures


def gini(result: dict[str, Any]) -> dict[str, float]:
  """Gini coefficient of the training counts at each level; none where nothing is labelled."""
  levels = tail_statistics.level_counts(_statistics(result, 0).deciding)
  return {level: class_stats.gini(counts) for level, counts in levels.items() if counts.any()}


def _statistics(result: dict[str, Any], num_images: int) -> tail_statistics.Statistics:
  classes = result["per_class"]
  names = tuple(entry["name"] for entry in classes)
  stats = class_stats.ClassStats(
    num_images,
    np.array([entry["train_images"] for entry in classes], np.int64),
    np.array([entry["train_pixel_share"] for entry in classes], np.float64),
  )
  metadata = prepared.ClassMetadata("train", names, tuple(range(len(names))), 2**16 - 1)
  return tail_statistics.Statistics(metadata, None, {"train": stats}, {})
