"""Metrics to TensorBoard and to JSON lines, through clu."""

import json
from collections.abc import Mapping

from clu import metric_writers
from clu.metric_writers import interface
from etils import epath

FILE_NAME = "metrics.jsonl"


class JsonLinesWriter(interface.MetricWriter):
  """Writes scalars as one JSON object a line, `{"step": 20, "loss": 1.25}`; drops the rest."""

  def __init__(self, path: epath.PathLike, start_step: int = 0):
    """Opens the file for appending.

    Args:
      path: of the file.
      start_step: lines of later steps, left by a run that was cut off, are removed.
    """
    self._path = epath.Path(path)
    if self._path.exists():
      lines = self._path.read_text().splitlines(keepends=True)
      kept = [line for line in lines if _line_step(line) <= start_step]
      if len(kept) < len(lines):
        self._path.write_text("".join(kept))

  def write_scalars(self, step: int, scalars: Mapping[str, interface.Scalar]) -> None:
    line = {"step": int(step)} | {name: float(value) for name, value in scalars.items()}
    with self._path.open("a") as file:
      file.write(json.dumps(line) + "\n")

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


def _line_step(line: str) -> float:
  """Step of a line; infinite where the process died while writing it."""
  try:
    return json.loads(line)["step"] if line.endswith("\n") else float("inf")
  except json.JSONDecodeError:
    return float("inf")


def create_writer(
  workdir: epath.PathLike, *, start_step: int, is_primary: bool
) -> interface.MetricWriter:
  """TensorBoard events and metrics.jsonl in `workdir`, written in the background by process 0 only.

  Args:
    workdir: of the run.
    start_step: of the resumed state.
    is_primary: whether this process writes.
  """
  if not is_primary:
    return metric_writers.MultiWriter([])
  return metric_writers.AsyncMultiWriter(
    [
      metric_writers.SummaryWriter(str(workdir)),
      JsonLinesWriter(epath.Path(workdir) / FILE_NAME, start_step),
    ]
  )
