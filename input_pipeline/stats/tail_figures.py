"""PNG figures of a data set's long tail."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib import axes as axes_lib, figure as figure_lib
from matplotlib.backends import backend_agg

from input_pipeline import class_stats
from input_pipeline.stats import tail_statistics

# Of the groups rare, common and frequent; they keep apart for the colour-blind.
_GROUP_COLORS = ("#d55e00", "#e69f00", "#0072b2")
_LEVEL_COLORS = ("#0072b2", "#d55e00")
_LEVEL_TITLES = {"image_level": "images with the class", "pixel_level": "summed pixel share"}


def _new_figure(columns: int) -> tuple[figure_lib.Figure, np.ndarray]:
  """A figure without pyplot, which keeps state and asks for a screen; axes [columns]."""
  figure = figure_lib.Figure(figsize=(1 + 5 * columns, 4.5), layout="constrained")
  backend_agg.FigureCanvasAgg(figure)
  return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_frequency(
  axes: axes_lib.Axes, counts: np.ndarray, own_counts: np.ndarray | None, title: str
) -> None:
  """Bars of the sorted counts in the colours of the groups, borders as lines."""
  order = np.argsort(-counts, kind="stable")  # [C]
  groups = class_stats.frequency_groups(counts)[order]
  rank = np.arange(1, len(counts) + 1)
  for group, (name, color) in enumerate(zip(class_stats.GROUP_NAMES, _GROUP_COLORS, strict=True)):
    inside = groups == group
    axes.bar(
      rank[inside], counts[order][inside], 1.0, color=color, label=f"{name} ({inside.sum()})"
    )
  for border in class_stats.group_borders(counts):
    axes.axhline(border, color="black", linewidth=0.8, linestyle="--")
  if own_counts is not None:
    axes.plot(rank, own_counts[order], ".", color="black", markersize=3, label="data at hand")
  if counts.any():
    axes.set_yscale("log")  # a class without an image has no bar
  axes.set(xlabel="class, the most frequent first", ylabel=_LEVEL_TITLES[title])
  axes.set_title(title.replace("_", " "))
  axes.legend()


def class_frequency(
  statistics: tail_statistics.Statistics, levels: Sequence[str] = tail_statistics.LEVELS
) -> figure_lib.Figure:
  """Sorted class counts with the borders of the frequency groups, one panel a level.

  Where official counts decide on the groups, the bars are theirs and the training split at hand is
  drawn as dots.
  """
  deciding = tail_statistics.level_counts(statistics.deciding)
  own = None
  if statistics.official is not None and "train" in statistics.splits:
    own = tail_statistics.level_counts(statistics.splits["train"])
  figure, panels = _new_figure(len(levels))
  for axes, level in zip(panels, levels, strict=True):
    _draw_frequency(axes, deciding[level], None if own is None else own[level], level)
  return figure


def _training_sources(statistics: tail_statistics.Statistics) -> dict[str, class_stats.ClassStats]:
  sources = {"official": statistics.official, "train": statistics.splits.get("train")}
  return {name: stats for name, stats in sources.items() if stats is not None}


def lorenz(statistics: tail_statistics.Statistics) -> figure_lib.Figure:
  """Lorenz curves: share of all the counts that the rarest x of the classes hold."""
  sources = _training_sources(statistics)
  figure, (axes,) = _new_figure(1)
  for style, (name, stats) in zip(("-", ":"), sources.items(), strict=False):
    levels = tail_statistics.level_counts(stats).items()
    for color, (level, counts) in zip(_LEVEL_COLORS, levels, strict=True):
      if not counts.any():
        continue
      cumulative = np.concatenate([[0], np.cumsum(np.sort(counts))])  # [C + 1]
      share = np.linspace(0, 1, len(cumulative))
      label = f"{name}, {level.replace('_', ' ')}: Gini {class_stats.gini(counts):.3f}"
      axes.plot(share, cumulative / cumulative[-1], style, color=color, label=label)
  axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8, label="all classes equal")
  axes.set(xlabel="share of the classes, the rarest first", ylabel="share of the counts")
  axes.legend()
  return figure


def images_per_number_of_classes(statistics: tail_statistics.Statistics) -> figure_lib.Figure:
  """How many images show how many classes, one panel a prepared split."""
  figure, panels = _new_figure(len(statistics.classes_per_image))
  for axes, (split, number) in zip(panels, statistics.classes_per_image.items(), strict=True):
    axes.bar(np.arange(number.max(initial=0) + 1), np.bincount(number, minlength=1), 0.9)
    axes.set(xlabel="classes in the image", ylabel="images", title=split)
  return figure


def save(statistics: tail_statistics.Statistics, directory: epath.PathLike) -> list[epath.Path]:
  """Draws the figures into a directory, which must exist.

  Args:
    statistics: statistics of the data set.
    directory: folder of the PNG files (local or gs://).

  Returns:
    The paths. `images_per_number_of_classes.png` needs prepared data: a table does not tell it.
  """
  figures = {"class_frequency": class_frequency(statistics), "lorenz": lorenz(statistics)}
  if statistics.classes_per_image:
    figures["images_per_number_of_classes"] = images_per_number_of_classes(statistics)
  paths = []
  for name, figure in figures.items():
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    paths.append(epath.Path(directory) / f"{name}.png")
    paths[-1].write_bytes(buffer.getvalue())
  return paths
