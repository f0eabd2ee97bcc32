"""Runs of a study: one process of `main.py` after another, resumed where they were stopped."""

import contextlib
import datetime
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from absl import logging

from ltss_jax.results import evaluation_result
from ltss_jax.study import plan, study_files

_MAIN = study_files.REPOSITORY / "main.py"
_LOG_LINES = 12  # of a failed run's output that are shown


class Stop:
  """SIGINT, SIGTERM, SIGHUP: the run at work is asked to save and end, and no other one starts.

  A second one kills it, and the run goes on from its last checkpoint.
  """

  def __init__(self):
    self.signal: int | None = None
    self._process: subprocess.Popen | None = None
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Stop":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
        self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    again, self.signal = self.signal is not None, self.signal or number
    if self._process is None:
      return
    if again:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
    else:
      self._process.terminate()

  def wait(self, process: subprocess.Popen) -> int:
    """Waits for a process, the leader of its group; returns its exit code."""
    self._process = process
    if self.signal is not None:  # came while it was being started
      process.terminate()
    try:
      return process.wait()
    finally:
      self._process = None


class Runner:
  """Runs what a schedule says and has not finished yet."""

  def __init__(self, folder: study_files.Folder, config: str, overrides: Mapping[str, Any]):
    """Sets up; nothing is started yet.

    Args:
      folder: folder of the study.
      config: FILE[:variants] without a method.
      overrides: field -> value, passed on as --config.FIELD=VALUE.
    """
    self._folder, self._config, self._overrides = folder, config, overrides
    self._machine: dict[str, Any] | None = None

  def __call__(self, schedule: Sequence[plan.Run]) -> int:
    """Runs them one after another.

    Args:
      schedule: runs, in the order in which they are to run.

    Returns:
      Exit code: 0, 1 where a run failed, 128 + the signal where one stopped the study.
    """
    left = [run for run in schedule if not self._is_finished(run)]
    logging.info("%d of %d runs have finished already", len(schedule) - len(left), len(schedule))
    failed = []
    with Stop() as stop:
      for i, run in enumerate(left):
        place = (
          f"[{len(schedule) - len(left) + i + 1}/{len(schedule)}] {run.method}, seed {run.seed}"
        )
        logging.info("%s: started; its log is %s", place, self._folder.log(run))
        code = self._attempt(run, stop)
        if self._is_finished(run):
          logging.info("%s: %s", place, self._summary(run))
        elif stop.signal is None:
          failed.append(run)
          self._report_failure(run, place, code)
        if stop.signal is not None:
          logging.info("Stopped by %s; the same command goes on", signal.Signals(stop.signal).name)
          return 128 + stop.signal
        logging.info("%s", self._outlook(left[i + 1 :]))
    if failed:
      logging.error(
        "%d of %d runs failed: %s. The same command tries them again.",
        len(failed),
        len(schedule),
        ", ".join(run.name for run in failed),
      )
    return 1 if failed else 0

  def _is_finished(self, run: plan.Run) -> bool:
    argument = plan.config_argument(self._config, run.method)
    return self._folder.collect(run, argument, self._overrides)

  def _command(self, run: plan.Run) -> list[str]:
    return [
      sys.executable,
      str(_MAIN),
      f"--config={plan.config_argument(self._config, run.method)}",
      *(f"--config.{field}={value}" for field, value in self._overrides.items()),
      f"--config.seed={run.seed}",
      f"--workdir={self._folder.workdir(run)}",
    ]

  def _attempt(self, run: plan.Run, stop: Stop) -> int:
    """Starts a run or goes on with it, and waits for its end; returns the exit code."""
    self._machine = self._machine or study_files.machine()
    commit = study_files.commit()
    started, start = datetime.datetime.now(datetime.UTC), time.monotonic()
    log = self._folder.log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
      # In a group of its own, so that Ctrl-C reaches only this process, which lets the run save.
      process = subprocess.Popen(
        self._command(run),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
      )
      code = stop.wait(process)
    self._folder.add_attempt(
      run,
      {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "exit_code": code,
        "commit": commit,
        "machine": self._machine,
      },
    )
    return code

  def _summary(self, run: plan.Run) -> str:
    content = self._folder.load()[run.method][run.seed]
    return f"{content['seconds'] / 60:.1f} min; {evaluation_result.summary_line(content['record'])}"

  def _report_failure(self, run: plan.Run, place: str, code: int) -> None:
    log = self._folder.log(run)
    if code == 0:
      why = "ended before its last step: something else asked it to stop"
    else:
      why = f"failed with exit code {code}"
    logging.error("%s: %s. The end of %s:\n%s", place, why, log, last_lines(log))

  def _outlook(self, left: Sequence[plan.Run]) -> str:
    """Says how long the remaining runs may take, from the finished ones of the same method."""
    seconds = {
      method: [content["seconds"] for content in by_seed.values()]
      for method, by_seed in self._folder.load().items()
    }
    known = [value for values in seconds.values() for value in values]
    if not left or not known:
      return f"{len(left)} runs left"
    times = [seconds.get(run.method, known) for run in left]
    eta = datetime.timedelta(seconds=round(sum(sum(values) / len(values) for values in times)))
    return f"{len(left)} runs left, ETA {eta}"


def last_lines(path: pathlib.Path, number: int = _LOG_LINES) -> str:
  """Returns the last lines of a text file, indented."""
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  return "\n".join(f"  {line}" for line in lines[-number:])
