"""What the loop says on the way: progress lines, metrics, and warnings of what went wrong."""

import datetime
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
from absl import logging

from ltss_jax.training import metric_writer


class Progress:
  """Speed and waiting time between two log lines, and the lines themselves."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    schedule: Callable[[int], jax.Array],
    writer: metric_writer.MetricWriter,
  ):
    """Starts the first interval.

    Args:
      config: resolved config of the run.
      schedule: learning rate by number of updates done.
      writer: destination of the metrics.
    """
    self._batch_size, self._options = config.batch_size, config.train
    self._schedule, self._writer = schedule, writer
    self.restart()

  def restart(self) -> None:
    """Starts a new interval; evaluation and saving are kept out of it."""
    self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

  def next(self, batches: Iterator[Any]) -> Any:
    """Draws a batch and counts the time that it took."""
    start = time.perf_counter()
    batch = next(batches)
    self._waited += time.perf_counter() - start
    self._steps += 1
    return batch

  def compiled(self) -> None:
    """Logs how long the first step took, which compiled, and keeps it out of the speed."""
    logging.info("The first step, with compilation, took %.1f s", self._elapsed)
    self.restart()

  def log(self, step: int, metrics: dict[str, Any]) -> None:
    """Writes the means since the last log step, the progress line and warnings.

    Args:
      step: number of updates done.
      metrics: second result of the step function.
    """
    num_steps = (step - 1) % self._options.log_every_steps + 1
    sums = {name: float(value) for name, value in jax.device_get(metrics["sums"]).items()}
    means = {name: value / num_steps for name, value in sums.items()}
    means["learning_rate"] = float(self._schedule(step - 1))
    speed = self._speed(step)
    self._writer.write_scalars(step, means | speed)
    logging.info(
      "step %d/%d  %s  %.1f images/s  data wait %.1f %%  ETA %s",
      step,
      self._options.steps,
      "  ".join(f"{name} {value:.4g}" for name, value in means.items()),
      speed["images_per_second"],
      100 * speed["data_wait"],
      datetime.timedelta(seconds=round(speed["eta_seconds"])),
    )
    _warn(step - num_steps + 1, step, sums)

  @property
  def _elapsed(self) -> float:
    """Seconds since the start of the interval."""
    return time.perf_counter() - self._start

  def _speed(self, step: int) -> dict[str, float]:
    """{"images_per_second", "data_wait" (share of the time, 0-1), "eta_seconds"}."""
    elapsed = self._elapsed
    seconds_per_step = elapsed / max(1, self._steps)
    return {
      "images_per_second": self._batch_size / seconds_per_step,
      "data_wait": self._waited / elapsed,
      "eta_seconds": (self._options.steps - step) * seconds_per_step,
    }


def _warn(first: int, last: int, sums: dict[str, float]) -> None:
  """Names what went wrong between two log lines without stopping the training."""
  if sums["skipped_steps"]:
    logging.warning(
      "steps %d to %d: %d changed nothing, as their loss or gradient was not finite "
      "(%d logits were not)",
      first,
      last,
      sums["skipped_steps"],
      sums.get("nonfinite_logits", 0),
    )
  if sums.get("dropped_targets"):
    logging.warning(
      "steps %d to %d: %d classes of crops, the most frequent ones, got no mask because "
      "config.model.max_targets is too small for all classes of the crop",
      first,
      last,
      sums["dropped_targets"],
    )
  if sums.get("invalid_matches"):
    logging.warning("steps %d to %d: %d matches were invalid", first, last, sums["invalid_matches"])
