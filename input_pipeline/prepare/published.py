"""Prepares the published data sets from the files that their owners publish."""

from absl import logging
from etils import epath

from input_pipeline import prepared
from input_pipeline.ade20k import layout as ade20k
from input_pipeline.ade20k_full import layout as ade20k_full
from input_pipeline.coco_stuff import layout as coco_stuff
from input_pipeline.mhp_v2 import layout as mhp_v2
from input_pipeline.prepare import ensure
from input_pipeline.raw import contents

_READERS = {layout.NAME: layout for layout in (ade20k, ade20k_full, coco_stuff, mhp_v2)}
# The long-tailed data sets are parts of these.
PARENTS = {"coco_stuff_lt": coco_stuff.NAME, "mhp_v2_lt": mhp_v2.NAME}


def prepare_published(name: str, raw_dir: str, data_dir: epath.PathLike) -> epath.Path:
  """Returns the prepared directory of a published data set; prepares it where it is not there.

  Args:
    name: a published data set that is not part of another one.
    raw_dir: directory that holds the published files; "" where the data are prepared already.
    data_dir: directory of all prepared data (local or gs://).

  Returns:
    The prepared directory, `data_dir`/name/version.

  Raises:
    FileNotFoundError: if the data are not prepared and no raw_dir is given, or files are missing.
    ValueError: if files are not usable; names them.
  """
  target = epath.Path(data_dir) / name / contents.VERSION
  existed = target.exists()  # what appears later is another process's complete work
  directory, _ = ensure.find_complete(name, data_dir)
  if directory is not None:
    logging.info("%s is prepared: using %s.", name, directory)
    return directory
  if not raw_dir:
    return ensure.ensure_prepared(name, data_dir)  # which says what to do
  raw = _READERS[name].read_contents(raw_dir)
  if existed and not prepared.make_room(target):
    return target
  # tfds takes a second to import, which a start with prepared data need not wait for.
  from input_pipeline.raw import builder

  return builder.build(name, raw, data_dir)
