"""Long-tailed parts of prepared data sets: by a list of images, or chosen by the greedy sampler."""

import collections
import dataclasses
import hashlib
import threading
from typing import Any

import numpy as np
import tqdm
from etils import epath

from input_pipeline import class_stats, file_access, lt_sampling, prepared
from input_pipeline.raw import contents, files, note as note_lib, record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
  """Which training images a part keeps.

  Attributes:
    image_list: text file with one image name a line; "": the greedy sampler chooses.
    target_images: number of images that the sampler keeps; None: as many as target_gini allows.
    target_gini: Gini coefficient at which it stops raising; None: as high as it gets.
    level: "image", "pixel" or "both": whose coefficient it raises.
    seed: decides between equally good images.
  """

  image_list: str = ""
  target_images: int | None = None
  target_gini: float | None = None
  level: str = "image"
  seed: int = 0

  def __post_init__(self):
    if self.image_list and not (self.target_images is None and self.target_gini is None):
      raise ValueError(
        "An image list says by itself which images stay: give --image_list or the targets of the"
        " greedy sampler (--target_images, --target_gini)."
      )

  def as_note(self) -> dict[str, Any]:
    """What tells this choice from others, as plain JSON values."""
    if self.image_list:
      text = "\n".join(_read_list(self.image_list))
      return {"image_list": hashlib.sha256(text.encode()).hexdigest()}
    fields = dataclasses.asdict(self)
    del fields["image_list"]
    return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A part of a prepared data set, to be prepared.

  Attributes:
    name: name of the data set.
    config_name: directory between name and version; none where empty.
    data_dir: directory of all prepared data.
    metadata: classes of the part, those of the whole.
    whole: prepared directory of the whole.
    choice: training images that stay; all validation images do.
    official: published statistics of the part's training split, where there are some.
  """

  name: str
  config_name: str = ""
  data_dir: epath.Path
  metadata: prepared.ClassMetadata
  whole: epath.Path
  choice: Choice
  official: class_stats.ClassStats | None = None


def check_choice(directory: epath.Path, choice: Choice) -> None:
  """Raises a ValueError if a prepared part was made by another choice."""
  stored = note_lib.read_note(directory).get("subset")
  if stored != choice.as_note():
    raise ValueError(
      f"{directory} is prepared, but by {stored} instead of {choice.as_note()}: remove it to"
      " prepare it anew, or give another --data_dir."
    )


def prepare_part(part: Part) -> epath.Path:
  """Prepares a part from the prepared records and statistics of the whole; decodes no image.

  Args:
    part: part to prepare.

  Returns:
    The prepared directory; its `source.json` holds how the part compares with the whole.

  Raises:
    ValueError: if the image list names images that are not there, or the targets are not possible.
  """
  counts = {split: prepared.read_pixel_counts(part.whole, split) for split in prepared.SPLITS}
  sources = {split: prepared.open_source(part.whole, split) for split in prepared.SPLITS}
  if part.choice.image_list:
    kept = _listed_images(part.choice.image_list, sources["train"])
  else:
    kept = _sampled_images(part.choice, counts["train"], part.metadata.num_classes)
  if part.official is not None:
    files.warn_of_count(part.name, "train", len(kept), part.official.num_images)
  lock = threading.Lock()  # the reader of a split is one file handle

  def read(item: tuple[str, int]) -> record.Record:
    split, index = item
    with lock:
      stored = sources[split][index]
    size = int(counts[split].height[index]), int(counts[split].width[index])
    return record.Record(
      stored["file_name"], stored["image"], stored["label"], size, counts[split].row(index)
    )

  raw = contents.Contents(
    title=part.metadata.name,
    root=str(part.whole),
    description=f"A part of the training images of {part.whole}, and its validation images.",
    metadata=part.metadata,
    items={
      "train": [("train", int(index)) for index in kept],
      "val": [("val", index) for index in range(len(sources["val"]))],
    },
    read=read,
    note=note_lib.read_note(part.whole)
    | {
      "whole": str(part.whole),
      "subset": part.choice.as_note(),
      "report": _report(part, counts["train"], kept),
    },
  )
  # tfds takes a second to import, which a wrong list or target need not wait for.
  from input_pipeline.raw import builder

  return builder.build(part.name, raw, part.data_dir, part.config_name)


def _read_list(path: str) -> list[str]:
  file = epath.Path(path).expanduser()
  if not file_access.exists(file):
    raise FileNotFoundError(f"--image_list={path} does not exist: give a text file of image names.")
  names = [line for line in file_access.read_lines(file) if line]
  if not names:
    raise ValueError(f"{path} is empty: write the name of one training image a line.")
  return names


def _listed_images(path: str, source: prepared.PreparedSource) -> np.ndarray:
  """Positions of the listed images [K], in the order of the whole."""
  names = _read_list(path)
  bar = tqdm.tqdm(range(len(source)), "Looking for the listed images", unit=" images")
  index_of = {source[index]["file_name"]: index for index in bar}
  if unknown := [name for name in names if name not in index_of]:
    remedy = f"The training images have names like {next(iter(index_of))}."
    raise ValueError(
      files.several(unknown, f"names of {path} are no images of the training split", remedy)
    )
  if len(set(names)) != len(names):
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    raise ValueError(
      files.several(twice, f"names stand more than once in {path}", "Name each image once.")
    )
  return np.sort(np.array([index_of[name] for name in names], np.int64))


def _sampled_images(
  choice: Choice, counts: class_stats.PixelCounts, num_classes: int
) -> np.ndarray:
  """Positions that the greedy sampler keeps [K]."""
  presence, pixel_share = lt_sampling.class_matrices(counts, num_classes)  # [N, C] both
  if choice.target_images is not None and choice.target_images > len(counts):
    raise ValueError(
      f"{choice.target_images} images are to be kept, but there are only {len(counts)}: give a"
      " smaller --target_images."
    )
  return lt_sampling.greedy_subset(
    presence,
    pixel_share,
    target_images=choice.target_images,
    level=choice.level,
    seed=choice.seed,
    target_gini=choice.target_gini,
  )


def _select(counts: class_stats.PixelCounts, kept: np.ndarray) -> class_stats.PixelCounts:
  sizes = zip(counts.height[kept], counts.width[kept], strict=True)
  return class_stats.PixelCounts.from_rows(sizes, [counts.row(index) for index in kept])


def _report(part: Part, counts: class_stats.PixelCounts, kept: np.ndarray) -> dict[str, Any]:
  """How the part compares with the whole and, where published, with the official table."""
  num_classes = part.metadata.num_classes
  before = class_stats.class_stats(counts, num_classes)
  after = class_stats.class_stats(_select(counts, kept), num_classes)
  report: dict[str, Any] = {"num_images": [before.num_images, after.num_images]}
  levels = {
    "images": lambda stats: stats.images_with_class,
    "pixels": lambda stats: stats.pixel_share_sum,
  }
  for level, of in levels.items():
    report[level] = {
      "gini": [class_stats.gini(of(before)), class_stats.gini(of(after))],
      "per_class": [of(before).tolist(), of(after).tolist()],
    }
    if part.official is not None:
      report[level]["official_gini"] = class_stats.gini(of(part.official))
      report[level]["official_per_class"] = of(part.official).tolist()
      report[level]["comparison"] = lt_sampling.comparison(of(after), of(part.official))
  return report


def describe_report(directory: epath.Path) -> list[str]:
  """Summary of how a prepared part compares, one line a fact; empty for other data sets."""
  note = note_lib.read_note(directory)
  if "report" not in note:
    return []
  report = note["report"]
  whole, kept = report["num_images"]
  lines = [f"  {kept} of the {whole} training images of {note['whole']}, by {note['subset']}"]
  for level in ("images", "pixels"):
    numbers = report[level]
    line = f"  Gini ({level}): {numbers['gini'][0]:.3f} before, {numbers['gini'][1]:.3f} after"
    if "comparison" in numbers:
      line += f", {numbers['official_gini']:.3f} official; {_in_words(numbers['comparison'])}"
    lines.append(line)
  return [*lines, f"  Counts per class: {directory / 'source.json'}"]


def _in_words(comparison: dict[str, Any]) -> str:
  correlation = comparison["rank_correlation"]
  return (
    "counts per class against the official ones: rank correlation "
    + ("undefined" if correlation is None else f"{correlation:.3f}")
    + f", sum of differences {comparison['total_difference']:.6g} of"
    f" {comparison['official_total']:.6g}"
  )
