"""Being asked to stop: by SIGTERM, or with several processes by JAX's coordination service."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
  """The job was asked to stop."""


class Preemption:
  """Whether the job was asked to stop (SIGTERM), agreed on by all processes.

  A context manager: leaving it gives the signal back to whoever had it.
  """

  def __enter__(self) -> "Preemption":
    self._asked = threading.Event()
    self._listens = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1:
      self._listens = False  # JAX's coordination service does, for all of them
    if self._listens:
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
    return self

  def __exit__(self, *_) -> None:
    if self._listens:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self, step: int) -> bool:
    """Whether to stop, asked once after every step; all processes get True at the same step.

    Args:
      step: number of updates done.
    """
    if jax.process_count() == 1:
      return self._asked.is_set()
    return multihost_utils.reached_preemption_sync_point(step)

  def check(self) -> None:
    """To be called within a step's work; several processes, which cannot agree there, go on.

    Raises:
      Stopped: the job was asked to stop.
    """
    if self._asked.is_set():
      raise Stopped
