"""Prepares a data set from the command line.

- `python -m input_pipeline.prepare shapes_lt --data_dir=data`
- `python -m input_pipeline.prepare folder --root=DIR --data_dir=data [--ignore_label=255]`
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epath

from input_pipeline import class_stats, prepared
from input_pipeline.prepare import ensure

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Directory of all prepared data.")
_ROOT = flags.DEFINE_string("root", "", "The user's folder; for the data set `folder` only.")
_IGNORE_LABEL = flags.DEFINE_integer(
  "ignore_label", 255, "Label of the pixels without a class; for the data set `folder` only."
)


def describe(directory: epath.Path) -> str:
  """Summary of a prepared data set, one line a fact."""
  metadata = prepared.read_metadata(directory)
  lines = [f"{metadata.name}: {metadata.num_classes} classes in {directory}"]
  for split in prepared.SPLITS:
    counts = prepared.read_pixel_counts(directory, split)
    stats = class_stats.class_stats(counts, metadata.num_classes)
    absent = int((stats.images_with_class == 0).sum())
    lines.append(
      f"  {split}: {len(counts)} images, Gini {class_stats.gini(stats.images_with_class):.3f}"
      f" (images) and {class_stats.gini(stats.pixel_share_sum):.3f} (pixels),"
      f" {absent} classes without an image"
    )
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  """Prepares one data set; returns the exit status."""
  logging.set_verbosity(logging.INFO)
  if len(argv) != 2:
    print(
      f"Name one data set, got {list(argv[1:])}: python -m input_pipeline.prepare NAME, NAME one of"
      f" {', '.join(ensure.NAMES)}.",
      file=sys.stderr,
    )
    return 2
  try:
    directory = ensure.ensure_prepared(argv[1], _DATA_DIR.value, _ROOT.value, _IGNORE_LABEL.value)
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  print(describe(directory))
  return 0


if __name__ == "__main__":
  app.run(main)
