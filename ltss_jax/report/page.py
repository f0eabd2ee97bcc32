"""Puts a report together and writes it."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
from absl import logging
from etils import epath
from matplotlib import figure as figure_lib

from ltss_jax.report import pictures, run_figures, run_files, tables
from ltss_jax.results import evaluation_result
from ltss_jax.workdir import atomic_file

FILE_NAME = "report.html"
_FOLDER = pathlib.Path(__file__).parent


def report(
  workdir: epath.PathLike,
  compare: Sequence[epath.PathLike] = (),
  output: epath.PathLike | None = None,
) -> epath.Path:
  """Writes one self-contained HTML page about a run, from the files in its workdir alone.

  Args:
    workdir: workdir of the run.
    compare: workdirs of other runs, to be set against it.
    output: path of the page; by default WORKDIR/report.html.

  Returns:
    The path.

  Raises:
    FileNotFoundError: a workdir is not there or holds no results.
    ValueError: a file in it is not as this project writes it, or a workdir is named twice.
    OSError: the page cannot be written; one that was there stays as it is.
  """
  runs = _read_runs([workdir, *compare])
  path = epath.Path(workdir).expanduser() / FILE_NAME if output is None else epath.Path(output)
  path = path.expanduser()
  atomic_file.write_text(path, render(runs))
  return path


def after_training(workdir: epath.PathLike) -> None:
  """Writes the report of a run that has just ended; what goes wrong is logged, not raised.

  Args:
    workdir: workdir of the run, whose results must not be lost to a page about them.
  """
  try:
    logging.info("A report with figures and pictures is in %s", report(workdir))
  except Exception:  # Templates, figures and pictures each have errors of their own.
    logging.exception("The training is complete, but its report could not be written")


def render(runs: Sequence[run_files.Run]) -> str:
  """The page as text.

  Args:
    runs: the run that the page is about, then those that it is compared with.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template("page.html").render(_context(runs))


def _read_runs(workdirs: Sequence[epath.PathLike]) -> list[run_files.Run]:
  """Reads runs under labels that differ."""
  paths = [epath.Path(workdir).expanduser() for workdir in workdirs]
  if len(set(paths)) < len(paths):
    raise ValueError(f"a workdir is named twice: {', '.join(map(str, paths))}; name each once")
  return [
    run_files.read_run(path, label) for path, label in zip(paths, _labels(paths), strict=True)
  ]


def _labels(paths: Sequence[epath.Path]) -> list[str]:
  """The ends of different paths, as long as it takes to tell them apart."""
  for length in range(1, max(len(path.parts) for path in paths)):
    labels = ["/".join(path.parts[-length:]) for path in paths]
    if len(set(labels)) == len(labels):
      return labels
  return [str(path) for path in paths]


def _context(runs: Sequence[run_files.Run]) -> dict[str, Any]:
  """What the template shows."""
  run = runs[0]
  start = run.starts[0] if run.starts else {}
  shown = [pictures.entry(example, run.class_names) for example in run.examples]
  half = (len(shown) + 1) // 2
  return {
    "runs": runs,
    "run": run,
    "special": evaluation_result.not_plain(run.result),
    "start": start,
    "style": (_FOLDER / "page.css").read_text(encoding="utf-8"),
    "script": (_FOLDER / "page.js").read_text(encoding="utf-8"),
    "totals": tables.totals(runs),
    "groups": tables.groups(run.result),
    "class_columns": tables.class_columns(runs, run.confusion is not None),
    "class_rows": tables.class_rows(runs),
    "pairs": tables.confusion_pairs(run),
    "config_rows": tables.config_rows(runs),
    "number": tables.number,
    "gini": run_figures.gini(run.result),
    "figures": _figures(runs, start.get("train_images", 0)),
    "worst": shown[:half],
    "best": shown[half:][::-1],
  }


def _figures(
  runs: Sequence[run_files.Run], num_images: int
) -> dict[str, list[tuple[str, str, str]]]:
  """(title, what is to be seen, source of an <img>) of the figures of each section."""
  run = runs[0]
  data = run_figures.data_set(run.result, num_images)
  figures = {
    "frequency": [
      ("By number of training images", _SCATTER, run_figures.iou_by_frequency(run.result, "image")),
      ("By training pixels", _SCATTER, run_figures.iou_by_frequency(run.result, "pixel")),
    ],
    "curves": [
      ("Loss", "Means between two log lines.", run_figures.losses(run)),
      ("mIoU", "Of the evaluated steps.", run_figures.validation(run)),
      (
        "Learning rate",
        "Of the schedule; the backbone's may be a fraction.",
        run_figures.metric(run, "learning_rate", "learning rate"),
      ),
      (
        "Gradient norm",
        "Before clipping.",
        run_figures.metric(run, "grad_norm", "norm of the gradient"),
      ),
    ],
    "data": [
      ("Images per class", _BARS, data["image_level"]),
      ("Pixels per class", _BARS, data["pixel_level"]),
      ("Lorenz curves", _LORENZ, data["lorenz"]),
    ],
    "comparison": [],
  }
  if len(runs) > 1:
    figures["comparison"] = [
      ("mIoU, image level", _GROUPS, run_figures.compare_groups(runs, "image")),
      ("mIoU, pixel level", _GROUPS, run_figures.compare_groups(runs, "pixel")),
      ("mIoU over the steps", "Of the evaluated steps.", run_figures.compare_validation(runs)),
      ("Loss", "Comparable between runs of the same loss.", run_figures.compare_losses(runs)),
    ]
  return {section: _drawn(entries) for section, entries in figures.items()}


_SCATTER = "A mark is a class, a dashed line the mIoU of a group; classes never seen stand left."
_BARS = "Sorted; dashed lines are the borders between rare, common and frequent classes."
_LORENZ = "Share of all counts that the rarest classes hold; on the grey line all would be equal."
_GROUPS = "Of all classes and of each group."


def _drawn(
  entries: list[tuple[str, str, figure_lib.Figure | None]],
) -> list[tuple[str, str, str]]:
  return [(title, text, run_figures.svg(f)) for title, text, f in entries if f is not None]
