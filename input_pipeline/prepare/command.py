"""What the preparation command does with its flags."""

import dataclasses

from absl import logging
from etils import epath

from input_pipeline import datasets, prepared
from input_pipeline.prepare import ensure, published, subset
from input_pipeline.raw import contents


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What the user asks for.

  Attributes:
    name: name of the data set.
    data_dir: directory of all prepared data.
    root: the user's folder; for `folder` only.
    ignore_label: label of the pixels without a class, -1: by their number; for `folder` only.
    raw_dir: directory of the published files; for the published data sets.
    make_long_tailed: whether to make a long-tailed part of the data set.
    choice: training images that a long-tailed part keeps; None where no flag says anything of it.
  """

  name: str
  data_dir: str
  root: str = ""
  ignore_label: int = -1
  raw_dir: str = ""
  make_long_tailed: bool = False
  choice: subset.Choice | None = None


def prepare(request: Request) -> epath.Path:
  """Prepares what is asked for, where it is not there yet.

  Args:
    request: the flags.

  Returns:
    The prepared directory.

  Raises:
    FileNotFoundError: if files are missing.
    ValueError: if flags do not fit together or files are not usable.
  """
  spec = datasets.find_spec(request.name)
  _check_flags(request, spec)
  if request.make_long_tailed:
    whole = prepare(dataclasses.replace(request, make_long_tailed=False, choice=None))
    return _make_long_tailed(request, whole)
  if spec.part_of:
    return _prepare_published_part(request, spec)
  if spec.layout is not None:
    return published.prepare_published(request.name, request.raw_dir, request.data_dir)
  return ensure.ensure_prepared(request.name, request.data_dir, request.root, request.ignore_label)


def _check_flags(request: Request, spec: datasets.DatasetSpec) -> None:
  name, choice = request.name, request.choice
  if request.raw_dir and spec.class_table is None:
    raise ValueError(f"--raw_dir belongs to the published data sets; {name!r} has none.")
  if choice is None and request.make_long_tailed:
    raise ValueError("--make_long_tailed needs --target_images, --target_gini or --image_list.")
  if choice is not None and not (request.make_long_tailed or spec.part_of):
    raise ValueError(
      f"--image_list, --target_images, --target_gini, --level and --seed choose a part of {name!r}:"
      " add --make_long_tailed to make one."
    )


def _prepare_published_part(request: Request, spec: datasets.DatasetSpec) -> epath.Path:
  """The long-tailed data sets: by the list of images, else of the official number of images."""
  choice = request.choice or subset.Choice()
  if not choice.image_list and choice.target_images is None:
    choice = dataclasses.replace(choice, target_images=spec.class_table.num_train_images)
  target = epath.Path(request.data_dir) / request.name / contents.VERSION
  existed = target.exists()  # what appears later is another process's complete work
  directory, _ = published.find_complete(request.name, request.data_dir)
  if directory is not None:
    if request.choice is not None:
      subset.check_choice(directory, choice)
    return directory
  if not request.raw_dir and published.find_complete(spec.part_of, request.data_dir)[0] is None:
    return published.find_published(request.name, request.data_dir)  # which says what to do
  whole = published.prepare_published(spec.part_of, request.raw_dir, request.data_dir)
  if existed and not prepared.make_room(target):
    return _prepare_published_part(request, spec)  # which finds it
  return subset.prepare_part(
    subset.Part(
      name=request.name,
      data_dir=epath.Path(request.data_dir),
      metadata=spec.class_table.metadata,
      whole=whole,
      choice=choice,
      official=spec.official_stats,
    )
  )


def _make_long_tailed(request: Request, whole: epath.Path) -> epath.Path:
  """A part in a data directory of its own, where it stands in the place of the whole."""
  metadata = prepared.read_metadata(whole)
  place = whole.relative_to(epath.Path(request.data_dir))  # name[/config]/version
  data_dir = epath.Path(request.data_dir) / "long_tailed" / _part_key(request, place)
  # Another name: the published statistics of the whole are not those of the part.
  metadata = dataclasses.replace(metadata, name=f"{metadata.name}_long_tailed")
  part = subset.Part(
    name=place.parts[0],
    config_name="/".join(place.parts[1:-1]),
    data_dir=data_dir,
    metadata=metadata,
    whole=whole,
    choice=request.choice,
  )
  directory = data_dir.joinpath(*place.parts[:-1], contents.VERSION)
  if directory.exists() and not prepared.make_room(directory):
    subset.check_choice(directory, request.choice)
  else:
    subset.prepare_part(part)
  logging.info("Train on it with --config.data.dir=%s", data_dir)
  return directory


def _part_key(request: Request, place: epath.Path) -> str:
  choice = request.choice.as_note()
  words = [f"{key}_{value}"[:40] for key, value in choice.items() if value is not None]
  return "-".join([place.parts[-2], *words])
