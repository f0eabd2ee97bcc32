"""Prints the long-tail statistics of a data set and saves them with plots.

- `python -m input_pipeline.stats data/shapes_lt/1.0.0` for a prepared data set
- `python -m input_pipeline.stats coco_stuff_lt` for the official table alone
- `--output_dir=DIR`: where to; `runs/statistics/<name of the data set>` by default
"""

import json
import os
import sys
from collections.abc import Sequence

from absl import app, flags
from etils import epath

from input_pipeline import datasets
from input_pipeline.stats import tail_figures, tail_statistics, text

_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir", "", "Directory of the JSON file and the plots; runs/statistics/<name> by default."
)


def load(data: str) -> tail_statistics.Statistics:
  """Statistics of what the user named: a published data set's table or a prepared directory."""
  if data in datasets.PUBLISHED:
    return tail_statistics.from_table(data)
  if epath.Path(data).is_dir():
    return tail_statistics.from_directory(data)
  nearest = datasets.nearest_name(data, datasets.PUBLISHED)
  raise ValueError(
    f"{data!r} is neither a directory nor the name of a published data set; did you mean"
    f" {nearest!r}? Give a prepared directory, <data_dir>/<data set>/<version>, or one of"
    f" {', '.join(datasets.PUBLISHED)}."
  )


def _print(lines: str) -> None:
  """Prints to a reader that may stop early, such as `head`."""
  try:
    print(lines, flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes once more


def main(argv: Sequence[str]) -> int:
  """Reports on one data set; returns the exit status."""
  if len(argv) != 2:
    print(
      f"Name one data set, got {list(argv[1:])}: python -m input_pipeline.stats DATA, DATA a"
      f" prepared directory or one of {', '.join(datasets.PUBLISHED)}.",
      file=sys.stderr,
    )
    return 2
  try:
    statistics = load(argv[1])
    summary = tail_statistics.summary(statistics)
    name = summary["name"].replace("/", "_")  # a user's folder may be called anything
    directory = epath.Path(_OUTPUT_DIR.value or f"runs/statistics/{name}")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "statistics.json"
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    written = [path, *tail_figures.save(statistics, directory)]
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  _print(f"{text.describe(summary)}\n\nWritten: {', '.join(str(path) for path in written)}")
  return 0


if __name__ == "__main__":
  app.run(main)
