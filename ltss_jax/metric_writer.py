"""Metrics and pictures to TensorBoard, JSON lines and Weights & Biases, through clu."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from clu import metric_writers
from clu.metric_writers import interface
from etils import epath

from ltss_jax import json_lines, whole_file, workdir as files

_WANDB_ID = "wandb_id.txt"


class _QuietWriter(interface.MetricWriter):
  """Drops whatever a subclass does not write."""

  def write_scalars(self, step, scalars):
    pass

  def write_summaries(self, step, values, metadata=None):
    pass

  def write_images(self, step, images):
    pass

  def write_videos(self, step, videos):
    pass

  def write_audios(self, step, audios, *, sample_rate):
    pass

  def write_texts(self, step, texts):
    pass

  def write_histograms(self, step, arrays, num_buckets=None):
    pass

  def write_hparams(self, hparams):
    pass

  def flush(self):
    pass

  def close(self):
    pass


class JsonLinesWriter(_QuietWriter):
  """Writes scalars as JSON lines, `{"step": 20, "loss": 1.25, "digest": ...}`; drops the rest."""

  def __init__(self, path: epath.PathLike, start_step: int = 0):
    """Opens the file for appending.

    Args:
      path: of the file.
      start_step: lines of later steps, left by a run that was cut off, are removed. Damaged ones
        before them stay for a person to look at, with a warning.
    """
    self._path = epath.Path(path)
    if self._path.exists():
      *lines, rest = self._path.read_bytes().split(b"\n")
      later = (n for n, line in enumerate(lines) if self._step(line, start_step) > start_step)
      kept = lines[: next(later, len(lines))]
      if rest or len(kept) < len(lines):
        with whole_file.replacing(self._path) as file:
          file.write(b"".join(line + b"\n" for line in kept))

  def _step(self, line: bytes, unknown: int) -> int:
    try:
      return json_lines.parsed(line, str(self._path)).get("step", unknown)
    except ValueError as error:
      logging.warning("%s: %r", error, line)
      return unknown

  def write_scalars(self, step: int, scalars: Mapping[str, interface.Scalar]) -> None:
    line = {"step": int(step)} | {name: float(value) for name, value in scalars.items()}
    with self._path.open("ab") as file:
      file.write(json_lines.line_of(line))


class WandbWriter(_QuietWriter):
  """Sends scalars and images to a project of Weights & Biases; drops the rest."""

  def __init__(self, project: str, workdir: epath.PathLike, config: Mapping[str, Any]):
    """Starts a run there, or continues the one that this workdir was started with.

    Args:
      project: its name.
      workdir: of the run, whose name the run gets; its id is kept in wandb_id.txt.
      config: fields of the run, shown beside its curves.

    Raises:
      ValueError: the package is not installed.
    """
    try:
      import wandb  # optional, so not among the requirements
    except ImportError as error:
      raise ValueError(
        f"config.train.wandb_project={project!r} needs the package wandb, which cannot be imported"
        f" ({error}): `pip install wandb`, or leave the field empty"
      ) from error
    self._wandb = wandb
    path = epath.Path(workdir) / _WANDB_ID
    if not path.exists():
      whole_file.write_text(path, uuid.uuid4().hex)
    self._run = wandb.init(
      project=project,
      name=epath.Path(workdir).name,
      id=path.read_text().strip(),
      resume="allow",
      config=dict(config),
    )
    logging.info("Weights & Biases: run %s of project %s", self._run.id, project)

  def write_scalars(self, step: int, scalars: Mapping[str, interface.Scalar]) -> None:
    self._run.log({name: float(value) for name, value in scalars.items()}, step=int(step))

  def write_images(self, step: int, images: Mapping[str, interface.Array]) -> None:
    pictures = {
      name: [self._wandb.Image(np.asarray(image)) for image in batch]
      for name, batch in images.items()
    }
    self._run.log(pictures, step=int(step))

  def close(self) -> None:
    self._run.finish()


def create_writer(
  workdir: epath.PathLike,
  *,
  start_step: int,
  is_primary: bool,
  wandb_project: str = "",
  config: Mapping[str, Any] | None = None,
) -> interface.MetricWriter:
  """TensorBoard events and metrics.jsonl in `workdir`, written in the background by process 0 only.

  Args:
    workdir: of the run.
    start_step: of the resumed state.
    is_primary: whether this process writes.
    wandb_project: project of Weights & Biases that gets them as well; "": none.
    config: fields of the run, for that project.

  Raises:
    ValueError: a project is given, but the package is not installed.
  """
  if not is_primary:
    return metric_writers.MultiWriter([])
  writers = [
    metric_writers.SummaryWriter(str(workdir)),
    JsonLinesWriter(files.metrics(workdir), start_step),
  ]
  if wandb_project:
    writers.append(WandbWriter(wandb_project, workdir, config or {}))
  return metric_writers.AsyncMultiWriter(writers)
