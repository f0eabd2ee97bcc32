"""A trace of a few steps by JAX's profiler, for xprof and Perfetto."""

import pathlib
import tempfile
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from ltss_jax.workdir import atomic_file, paths


class StepTrace:
  """Traces the steps that `config.train.profile_steps` names, on process 0, into WORKDIR/profile.

  A context manager: leaving it ends a trace that a stop or an error has cut off.
  """

  def __init__(self, options: ml_collections.ConfigDict, workdir: epath.Path):
    """Sets up; nothing is traced yet.

    Args:
      options: the fields below `config.train`.
      workdir: folder of the run.
    """
    self._directory, self._steps = paths.profile(workdir), range(0)
    if options.profile_steps:
      first, last = options.profile_steps
      if first > options.steps:
        logging.warning(
          "config.train.profile_steps=%s begins after the last step, config.train.steps=%d: nothing"
          " is traced",
          tuple(options.profile_steps),
          options.steps,
        )
      if jax.process_index() == 0:
        self._steps = range(first, min(last, options.steps) + 1)
    # The profiler writes to a local disk; the workdir may be in a store of objects (gs://).
    self._local: tempfile.TemporaryDirectory | None = None

  def __enter__(self) -> "StepTrace":
    return self

  def __exit__(self, *_) -> None:
    self._end()

  def before(self, step: int, in_flight: Any) -> None:
    """Begins the trace where it is due.

    Args:
      step: number of the step about to run.
      in_flight: results of the step before, which is no part of the trace.
    """
    if step in self._steps and self._local is None:
      jax.block_until_ready(in_flight)
      local = tempfile.TemporaryDirectory()
      jax.profiler.start_trace(local.name)
      self._local = local

  def after(self, step: int, in_flight: Any) -> None:
    """Ends the trace where it is due.

    Args:
      step: number of the step that was started last.
      in_flight: its results.
    """
    if self._local is not None and step == self._steps[-1]:
      jax.block_until_ready(in_flight)
      self._end()

  def _end(self) -> None:
    if self._local is None:
      return
    with self._local as name:
      self._local = None
      jax.profiler.stop_trace()
      for path in filter(pathlib.Path.is_file, pathlib.Path(name).rglob("*")):
        with atomic_file.atomic_write(self._directory / path.relative_to(name)) as file:
          file.write(path.read_bytes())
    logging.info("A trace of config.train.profile_steps is in %s", self._directory)
