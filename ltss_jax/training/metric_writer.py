"""Metrics and pictures to TensorBoard, JSON lines and Weights & Biases.

The interface is that of `clu.metric_writers`, as far as it is used here: the package itself, its
interface included, imports TensorFlow, which nothing else here needs.
"""

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging
from clu import asynclib
from etils import epath

from ltss_jax.training import event_files
from ltss_jax.workdir import atomic_file, json_lines, paths

Scalar = int | float | np.number | np.ndarray

_WANDB_ID = "wandb_id.txt"


class MetricWriter(Protocol):
  """Where metrics go; a writer may drop what it has no place for."""

  def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
    """Writes numbers of a step."""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes images of a step, uint8 [N, H, W, 3] under each name."""

  def flush(self) -> None:
    """Brings all that was written to its place."""

  def close(self) -> None:
    """Flushes and ends; nothing may be written after."""


class AsyncWriter:
  """Hands everything on to other writers in the background, in order.

  What fails there is raised by the next call here, as `asynclib.AsyncError`.
  """

  def __init__(self, writers: Sequence[MetricWriter]):
    self._writers = tuple(writers)
    # A single thread keeps the order.
    self._pool = asynclib.Pool("metric_writer", max_workers=1)

  def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
    self._pool(self._each)("write_scalars", step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    self._pool(self._each)("write_images", step, images)

  def flush(self) -> None:
    self._pool(self._each)("flush")
    self._pool.join()

  def close(self) -> None:
    try:
      self._pool(self._each)("close")
    finally:
      self._pool.close()

  def _each(self, method: str, *arguments: Any) -> None:
    with contextlib.ExitStack() as stack:  # all of them, whatever fails
      for writer in reversed(self._writers):
        stack.callback(getattr(writer, method), *arguments)


class JsonLinesWriter:
  """Writes scalars as JSON lines, `{"step": 20, "loss": 1.25, "digest": ...}`; drops the rest.

  A line is in the file at once, or from the next `flush` on in a store of objects (gs://), which
  takes whole files only.
  """

  def __init__(self, path: epath.PathLike, start_step: int = 0):
    """Opens the file for appending.

    Args:
      path: path of the file.
      start_step: step of the resumed state. Lines of later steps, left by a run that was cut off,
        are removed; damaged ones before them stay for a person to look at, with a warning.
    """
    self._path, self._unwritten = epath.Path(path), b""
    if self._path.exists():
      *lines, rest = self._path.read_bytes().split(b"\n")
      later = (n for n, line in enumerate(lines) if self._step(line, start_step) > start_step)
      kept = lines[: next(later, len(lines))]
      if rest or len(kept) < len(lines):
        with atomic_file.atomic_write(self._path) as file:
          file.write(b"".join(line + b"\n" for line in kept))

  def _step(self, line: bytes, unknown: int) -> int:
    try:
      return json_lines.parsed(line, str(self._path)).get("step", unknown)
    except ValueError as error:
      logging.warning("%s: %r", error, line)
      return unknown

  def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
    line = {"step": int(step)} | {name: float(value) for name, value in scalars.items()}
    self._unwritten += json_lines.line_of(line)
    if atomic_file.can_append(self._path):
      with self._path.open("ab") as file:
        file.write(self._unwritten)
      self._unwritten = b""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    pass

  def flush(self) -> None:
    if self._unwritten:
      before = self._path.read_bytes() if self._path.exists() else b""
      with atomic_file.atomic_write(self._path) as file:
        file.write(before + self._unwritten)
      self._unwritten = b""

  def close(self) -> None:
    self.flush()


class WandbWriter:
  """Sends scalars and images to a project of Weights & Biases; drops the rest."""

  def __init__(self, project: str, workdir: epath.PathLike, config: Mapping[str, Any]):
    """Starts a run there, or continues the one that this workdir was started with.

    Args:
      project: name of the project.
      workdir: folder of the run, whose name the run there gets; wandb_id.txt in it keeps its id.
      config: config fields of the run, shown beside its curves.

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
      atomic_file.write_text(path, uuid.uuid4().hex)
    self._run = wandb.init(
      project=project,
      name=epath.Path(workdir).name,
      id=path.read_text().strip(),
      resume="allow",
      config=dict(config),
    )
    logging.info("Weights & Biases: run %s of project %s", self._run.id, project)

  def write_scalars(self, step: int, scalars: Mapping[str, Scalar]) -> None:
    self._run.log({name: float(value) for name, value in scalars.items()}, step=int(step))

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    pictures = {
      name: [self._wandb.Image(np.asarray(image)) for image in batch]
      for name, batch in images.items()
    }
    self._run.log(pictures, step=int(step))

  def flush(self) -> None:
    pass  # the package sends in the background by itself

  def close(self) -> None:
    self._run.finish()


def create_writer(
  workdir: epath.PathLike,
  *,
  start_step: int,
  is_primary: bool,
  wandb_project: str = "",
  config: Mapping[str, Any] | None = None,
) -> MetricWriter:
  """TensorBoard events and metrics.jsonl in `workdir`, written in the background by process 0 only.

  Args:
    workdir: folder of the run.
    start_step: step of the resumed state.
    is_primary: True on the process that writes.
    wandb_project: project of Weights & Biases that gets them as well; "": none.
    config: config fields of the run, for that project.

  Raises:
    ValueError: a project is given, but the package is not installed.
  """
  writers = []
  if is_primary:
    writers += [
      event_files.EventWriter(workdir, start_step),
      JsonLinesWriter(paths.metrics(workdir), start_step),
    ]
    if wandb_project:
      writers.append(WandbWriter(wandb_project, workdir, config or {}))
  return AsyncWriter(writers)
