"""What a run has left in its workdir, read without its model or its data."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from input_pipeline import checked_files
from ltss_jax.results import evaluated_data, evaluation_result, metrics
from ltss_jax.visualization import example_images
from ltss_jax.workdir import atomic_file, json_lines, paths, run_config

_REMEDY = "evaluate again, or remove it"
_END_BYTES = 64  # of a result, its first and last entry


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A run, or converted weights that were evaluated.

  Attributes:
    workdir: folder of its files.
    label: a short name, unlike those of other runs of the same report.
    evaluated: the step, or name of weights, whose results are shown.
    result: its results, as `evaluation_result.make_result` makes them.
    history: (step, result) of every evaluated step, ascending.
    others: (name, result) of the evaluations of other data than the run's.
    lines: lines of metrics.jsonl, as they were written.
    confusion: int64 [C, C], rows are labels; None where it was not written.
    examples: the worst and best of some validation images; empty where there are none.
    config: values by dotted field names; empty where there is no config.json.
    starts: environment of each start of the training.
  """

  workdir: epath.Path
  label: str
  evaluated: str
  result: dict[str, Any]
  history: list[tuple[int, dict[str, Any]]]
  others: list[tuple[str, dict[str, Any]]]
  lines: list[dict[str, float]]
  confusion: np.ndarray | None
  examples: list[example_images.Example]
  config: dict[str, Any]
  starts: list[dict[str, Any]]

  @property
  def class_names(self) -> list[str]:
    """C names, in the order of the classes."""
    return [entry["name"] for entry in self.result["per_class"]]

  @property
  def is_of_other_data(self) -> bool:
    """Whether the results that are shown are not of the run's data, as it has no others."""
    return any(name == self.evaluated for name, _ in self.others)


def read_run(workdir: epath.PathLike, label: str = "") -> Run:
  """Reads a run; of its evaluations the one of the last step on its own data is shown.

  Args:
    workdir: workdir of the run.
    label: a short name; by default that of the folder.

  Raises:
    FileNotFoundError: the folder is not there or holds no results.
    ValueError: a file is not as this project writes it.
  """
  workdir = epath.Path(workdir).expanduser()
  names = _evaluated(workdir)
  if not names:
    raise FileNotFoundError(
      f"{workdir} holds no results (eval/<step>.json): give the workdir of a run, or evaluate it"
      " first with --mode=evaluate"
    )
  results = {name: _read_result(workdir, name) for name in names}
  others = [name for name in names if evaluated_data.is_of_other_data(workdir, name, results[name])]
  own = [name for name in names if name not in others]
  history = [(int(name), results[name]) for name in own if name.isdigit()]
  evaluated = (own or others)[-1]
  config = run_config.flatten(run_config.read(workdir) or {})
  lines = json_lines.read(paths.metrics(workdir))
  _warn_of_gaps(workdir, lines, config.get("train.log_every_steps", 0), history)
  return Run(
    workdir=workdir,
    label=label or workdir.name,
    evaluated=evaluated,
    result=results[evaluated],
    history=history,
    others=[(name, results[name]) for name in others],
    lines=lines,
    confusion=_read_confusion(workdir, evaluated, results[evaluated]),
    examples=_read_examples(paths.examples(workdir, evaluated)),
    config=config,
    starts=json_lines.read(paths.environment(workdir)),
  )


def _warn_of_gaps(
  workdir: epath.Path,
  lines: list[dict[str, float]],
  every: int,
  history: list[tuple[int, dict[str, Any]]],
) -> None:
  """Says which steps up to the last evaluated one were logged and have no line any more."""
  path = paths.metrics(workdir)
  if not (every and history and path.exists()):
    return
  logged = {line["step"] for line in lines}
  missing = [step for step in range(every, history[-1][0] + 1, every) if step not in logged]
  if missing:
    logging.warning("%s has lost %d lines, the first of step %d", path, len(missing), missing[0])


def _evaluated(workdir: epath.Path) -> list[str]:
  """Names of the results: those of weights in alphabetical order, then steps, ascending."""
  directory = workdir / "eval"
  paths = [p for p in directory.iterdir() if p.suffix == ".json"] if directory.is_dir() else []
  names = [p.stem for p in paths if p.stem.isdigit() or _is_result(p)]
  return sorted(names, key=lambda name: (name.isdigit(), int(name) if name.isdigit() else 0, name))


def _is_result(path: epath.Path) -> bool:
  """Whether a file is a result, or one that was damaged, by its ends: others may be large."""
  with path.open("rb") as file:
    start = file.read(_END_BYTES)
    file.seek(max(0, path.stat().length - _END_BYTES))
    end = file.read()
  # One damaged byte spoils the start or the end; what was cut off is short or has its start.
  is_cut = len(start) < _END_BYTES and not start.startswith(b"[")
  return is_cut or re.match(rb'\{\s*"mIoU"', start) is not None or b'"digest"' in end


def _read_result(workdir: epath.Path, name: str) -> dict[str, Any]:
  path = paths.result(workdir, name)
  result = atomic_file.read_json(path, _REMEDY)
  needed = {"mIoU", "fwIoU", "mACC", "pACC", "image_level", "pixel_level", "per_class"}
  missing = needed - result.keys() if isinstance(result, dict) else needed
  if missing:
    raise ValueError(
      f"{path} lacks {', '.join(sorted(missing))}: it is no result of an evaluation; remove it"
    )
  return result


def _read_confusion(workdir: epath.Path, name: str, result: dict[str, Any]) -> np.ndarray | None:
  """The counts [C, C] that a result was made from; None where there is no such file."""
  path = paths.confusion(workdir, name)
  if not path.exists():
    return None
  arrays = checked_files.read_npz(path, _REMEDY)
  with _named(path):
    (confusion,) = arrays.values()
  num_classes = len(result["per_class"])
  if confusion.shape != (num_classes, num_classes):
    raise ValueError(
      f"{path} is of shape {confusion.shape}, the results beside it are of {num_classes} classes;"
      " evaluate again, or remove it"
    )
  with _named(path):
    iou = 100 * metrics.segmentation_scores(confusion).iou
  recorded = np.array([entry["IoU"] for entry in result["per_class"]], np.float64)  # None: nan
  if not np.allclose(
    iou, recorded, rtol=0, atol=10**-evaluation_result.PERCENT_DIGITS, equal_nan=True
  ):
    raise ValueError(
      f"{path} holds the counts of another evaluation than {paths.result(workdir, name)}; evaluate"
      " again, or remove it"
    )
  return confusion


def _read_examples(path: epath.Path) -> list[example_images.Example]:
  return example_images.load(path) if path.exists() else []


@contextlib.contextmanager
def _named(path: epath.Path) -> Iterator[None]:
  """Names the file that cannot be read."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path} is not readable ({error}); {_REMEDY}") from error


def series(run: Run, name: str, max_points: int = 400) -> tuple[np.ndarray, np.ndarray]:
  """A metric over the steps; of many points the means of neighbours.

  Args:
    run: the run, with its lines.
    name: name of the metric; values that are not finite are left out.
    max_points: length of the result, about.

  Returns:
    (steps [N], values [N]); of a step written twice the last value.
  """
  values = {
    line["step"]: line[name] for line in run.lines if math.isfinite(line.get(name, math.nan))
  }
  points = np.array(sorted(values.items()), np.float64).reshape(-1, 2)
  width = -(-len(points) // max_points)
  if width > 1:
    points = np.stack([part.mean(0) for part in np.array_split(points, len(points) // width)])
  return points[:, 0], points[:, 1]
