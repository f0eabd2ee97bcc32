"""Prepares a data set from the command line.

- `python -m input_pipeline.prepare shapes_lt --data_dir=data`
- `python -m input_pipeline.prepare folder --root=DIR --data_dir=data [--ignore_label=N]`
- `python -m input_pipeline.prepare ade20k --raw_dir=DIR --data_dir=data` (and so on)
- `python -m input_pipeline.prepare coco_stuff_lt --raw_dir=DIR --data_dir=data [--image_list=FILE]`
- any data set: `--make_long_tailed --target_images=N [--target_gini=G] [--level=pixel] [--seed=0]`
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epath

from input_pipeline import class_stats, datasets, lt_sampling, prepared
from input_pipeline.prepare import command, subset

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Directory of all prepared data.")
_ROOT = flags.DEFINE_string("root", "", "The user's folder; for the data set `folder` only.")
_IGNORE_LABEL = flags.DEFINE_integer(
  "ignore_label",
  -1,
  "Label of the pixels without a class; for the data set `folder` only. -1: 255 with up to 255"
  " classes, 65535 with more.",
)
_RAW_DIR = flags.DEFINE_string(
  "raw_dir", "", "Directory that holds the published folders; for the published data sets."
)
_MAKE_LONG_TAILED = flags.DEFINE_bool(
  "make_long_tailed", False, "Make a long-tailed part of the data set, below DATA_DIR/long_tailed."
)
_IMAGE_LIST = flags.DEFINE_string(
  "image_list", None, "Text file of the training images that a long-tailed part keeps, one a line."
)
_TARGET_IMAGES = flags.DEFINE_integer(
  "target_images", None, "Number of training images that a long-tailed part keeps.", lower_bound=1
)
_TARGET_GINI = flags.DEFINE_float(
  "target_gini", None, "Gini coefficient at which a long-tailed part raises it no further."
)
_LEVEL = flags.DEFINE_enum(
  "level", None, lt_sampling.LEVELS, "Whose Gini coefficient rises; image where not given."
)
_SEED = flags.DEFINE_integer(
  "seed", None, "Decides between equally good images; 0 where not given."
)


def _choice() -> subset.Choice | None:
  given = {
    flag.name: flag.value
    for flag in (_IMAGE_LIST, _TARGET_IMAGES, _TARGET_GINI, _LEVEL, _SEED)
    if flag.value is not None
  }
  return subset.Choice(**given) if given else None


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
  return "\n".join([*lines, *subset.describe_report(directory)])


def main(argv: Sequence[str]) -> int:
  """Prepares one data set; returns the exit status."""
  logging.set_verbosity(logging.INFO)
  if len(argv) != 2:
    print(
      f"Name one data set, got {list(argv[1:])}: python -m input_pipeline.prepare NAME, NAME one of"
      f" {', '.join(datasets.SPECS)}.",
      file=sys.stderr,
    )
    return 2
  try:
    directory = command.prepare(
      command.Request(
        name=argv[1],
        data_dir=_DATA_DIR.value,
        root=_ROOT.value,
        ignore_label=_IGNORE_LABEL.value,
        raw_dir=_RAW_DIR.value,
        make_long_tailed=_MAKE_LONG_TAILED.value,
        choice=_choice(),
      )
    )
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  print(describe(directory))
  return 0


if __name__ == "__main__":
  app.run(main)
