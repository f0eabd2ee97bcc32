"""PNG figures that compare the methods of a study."""

import pathlib
from typing import Any

import numpy as np
from matplotlib import axes as axes_lib, figure as figure_lib
from matplotlib.backends import backend_agg

from ltss_jax.results import evaluation_result
from ltss_jax.study import statistics
from ltss_jax.study.statistics import Study

# They keep apart for the colour-blind; the first is the baseline's.
_COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_GROUP_COLORS = {"rare": "#d55e00", "common": "#e69f00", "frequent": "#0072b2"}
_WINDOW_SHARE = 0.2  # of the classes, over which a curve is smoothed: as many as a group has


def _new_figure(columns: int, rows: int = 1) -> tuple[figure_lib.Figure, np.ndarray]:
  """A figure without pyplot, which keeps state and asks for a screen; axes [rows * columns]."""
  figure = figure_lib.Figure(figsize=(1 + 5 * columns, 4.2 * rows), layout="constrained")
  backend_agg.FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()


def _add_legend(figure: figure_lib.Figure, axes: axes_lib.Axes, title: str) -> None:
  """Above the panels, as it hides points within them."""
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, title=title, loc="outside upper center", ncols=4, fontsize="small")


def _colors(study: Study) -> dict[str, str]:
  return {method: _COLORS[i % len(_COLORS)] for i, method in enumerate(study)}


def _iou(study: Study, method: str) -> np.ndarray:
  """[S, C] in percent."""
  return statistics.class_iou([content["record"] for content in study[method].values()])


def _classes(study: Study) -> list[dict[str, Any]]:
  """The classes of any run; frequencies and groups are the same in all."""
  by_seed = next(iter(study.values()))
  return next(iter(by_seed.values()))["record"]["per_class"]


def _frequency(study: Study, level: str) -> np.ndarray:
  """Frequency of every class for a logarithmic axis: 0 stands at half of the smallest other one."""
  values = np.array(
    [entry[evaluation_result.FREQUENCIES[level][0]] for entry in _classes(study)], np.float64
  )
  positive = values[values > 0]
  return np.maximum(values, positive.min() / 2 if positive.size else 1.0)  # [C]


def smoothed(frequency: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means over a window that slides along the classes by rising frequency.

  Args:
    frequency: positive [C].
    iou: percent, NaN for classes that are left out [C].

  Returns:
    (geometric mean of the frequencies, mean of the IoU), float64 [windows].
  """
  order = [c for c in np.argsort(frequency, kind="stable") if np.isfinite(iou[c])]
  window = max(1, min(len(order), round(_WINDOW_SHARE * len(frequency))))
  starts = range(len(order) - window + 1 if order else 0)
  parts = [order[start : start + window] for start in starts]
  x = [np.exp(np.log(frequency[part]).mean()) for part in parts]
  y = [iou[part].mean() for part in parts]
  return np.array(x), np.array(y)


def iou_by_frequency(study: Study) -> figure_lib.Figure:
  """IoU of the classes against their frequency at both levels: points, and smoothed curves."""
  figure, panels = _new_figure(len(evaluation_result.FREQUENCIES))
  for axes, (level, (_, label)) in zip(panels, evaluation_result.FREQUENCIES.items(), strict=True):
    frequency = _frequency(study, level)
    for method, color in _colors(study).items():
      mean = statistics.mean_over_seeds(_iou(study, method))
      axes.plot(frequency, mean, ".", color=color, alpha=0.35, markersize=5)
      name = f"{method} ({len(study[method])})"
      axes.plot(*smoothed(frequency, mean), color=color, label=name)
    axes.set(xscale="log", xlabel=label, title=f"{level} level")
  panels[0].set_ylabel("IoU, %, mean over the seeds")
  _add_legend(figure, panels[0], "method (seeds)")
  return figure


def _draw_gain(axes: axes_lib.Axes, study: Study, method: str, baseline: str) -> None:
  """One panel: mean difference of each class with its standard error, in its group's colour."""
  seeds = sorted(study[method].keys() & study[baseline].keys())
  ours, theirs = (
    statistics.class_iou([study[name][seed]["record"] for seed in seeds])
    for name in (method, baseline)
  )
  frequency, difference = _frequency(study, "image"), ours - theirs  # [C], [S, C]
  mean = statistics.mean_over_seeds(difference)
  count = np.isfinite(difference).sum(axis=0)
  squares = np.where(np.isfinite(difference), (difference - mean) ** 2, 0).sum(axis=0)
  error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
  groups = np.array([entry["image_group"] for entry in _classes(study)])
  for group, color in _GROUP_COLORS.items():
    inside = (groups == group) & np.isfinite(mean)
    axes.errorbar(
      frequency[inside],
      mean[inside],
      error[inside],
      fmt=".",
      color=color,
      elinewidth=0.8,
      label=group,
    )
  axes.axhline(0, color="gray", linewidth=0.8)
  axes.set(xscale="log", xlabel=evaluation_result.FREQUENCIES["image"][1])
  axes.set_title(f"{method} ({len(seeds)} pairs)", fontsize="medium")


def gain_by_frequency(study: Study, baseline: str) -> figure_lib.Figure | None:
  """Differences of the classes' IoU to the baseline, a panel for each method.

  Returns:
    None where there is no method with a seed that the baseline has too.
  """
  methods = [
    method
    for method, by_seed in study.items()
    if method != baseline and by_seed.keys() & study.get(baseline, {}).keys()
  ]
  if not methods:
    return None
  columns = min(3, len(methods))
  figure, panels = _new_figure(columns, -(-len(methods) // columns))
  for axes, method in zip(panels, methods, strict=False):
    _draw_gain(axes, study, method, baseline)
  for axes in panels[len(methods) :]:
    axes.set_axis_off()
  for axes in panels[::columns]:
    axes.set_ylabel(f"IoU - {baseline}, percentage points ± standard error")
  panels[0].legend(fontsize="small")
  return figure


def groups(study: Study) -> figure_lib.Figure:
  """Means over the groups at both levels: a bar for each method's mean, a dot for each seed."""
  figure, panels = _new_figure(len(evaluation_result.FREQUENCIES))
  width = 0.8 / len(study)
  for axes, level in zip(panels, evaluation_result.FREQUENCIES, strict=True):
    for i, (method, color) in enumerate(_colors(study).items()):
      results = {seed: content["record"] for seed, content in study[method].items()}
      for place, group in enumerate(_GROUP_COLORS):
        values = list(statistics.values_by_seed(results, f"{level} {group}").values())
        x = place + (i + 0.5) * width - 0.4
        axes.bar(
          x, np.mean(values) if values else 0.0, width, color=color, alpha=0.6,
          label=method if place == 0 else None,
        )  # fmt: skip
        axes.plot([x] * len(values), values, ".", color="black", markersize=3)
    axes.set_xticks(range(len(_GROUP_COLORS)), _GROUP_COLORS)
    axes.set_title(f"{level} level")
  panels[0].set_ylabel("mIoU, %")
  _add_legend(figure, panels[0], "bars: mean over the seeds, dots: seeds")
  return figure


def save(study: Study, directory: pathlib.Path, baseline: str) -> list[pathlib.Path]:
  """Draws the figures.

  Args:
    study: study by `study_files.Folder.load`, not empty.
    directory: folder of the PNG files; exists.
    baseline: the method that the others are compared with; may be absent.

  Returns:
    The paths; gain_by_frequency.png only where there is something to compare.
  """
  figures = {
    "iou_by_frequency": iou_by_frequency(study),
    "groups": groups(study),
    "gain_by_frequency": gain_by_frequency(study, baseline),
  }
  paths = []
  for name, figure in figures.items():
    if figure is not None:
      paths.append(directory / f"{name}.png")
      figure.savefig(paths[-1], dpi=100)
  return paths
