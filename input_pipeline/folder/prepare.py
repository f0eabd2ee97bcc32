"""Prepares a folder data set once, and anew when the folder changes."""

from absl import logging
from etils import epath

from input_pipeline import prepared
from input_pipeline.folder import layout as layout_lib, source
from input_pipeline.raw import contents, label_history, note as note_lib, record


def prepare_folder(data_dir: epath.PathLike, root: epath.PathLike, ignore_label: int) -> epath.Path:
  """Returns the prepared directory of a folder data set; prepares it where it is not up to date.

  Where the folder itself is gone but its prepared data is there, the latter is used.

  Args:
    data_dir: directory of all prepared data (local or gs://).
    root: the user's folder, laid out as `layout` describes.
    ignore_label: label of the pixels that belong to no class; -1: by their number.

  Returns:
    The prepared directory, `data_dir`/folder/<base name>-<8 hex digits of the path>/<version>.

  Raises:
    FileNotFoundError: if neither the folder nor its prepared data is there, or a part is missing.
    ValueError: if no root is given, or the folder holds something unusable; names the files.
  """
  if not root:
    raise ValueError(
      "The data set 'folder' needs its root, the folder that holds images/, annotations/ and"
      " classes.txt: --config.data.root=DIR (training) or --root=DIR (preparation)."
    )
  root = source.absolute_root(root)
  directory = source.prepared_directory(data_dir, root)
  existed = directory.exists()  # what appears later is another process's complete work
  note = note_lib.read_note(directory)
  stored = note.get("fingerprint")
  is_complete = stored is not None and not prepared.missing_files(directory)
  if is_complete and not root.is_dir():
    return _without_root(directory, root, ignore_label)
  layout = layout_lib.read_layout(root, ignore_label)
  fingerprint = layout_lib.fingerprint(layout)
  if is_complete and stored == fingerprint:
    return directory
  if is_complete and "subset" in note:
    raise ValueError(
      f"{directory} is a long-tailed part of {root}, which has changed since: remove the former"
      " and make it again (python -m input_pipeline.prepare folder --make_long_tailed ...)."
    )

  def is_current() -> bool:
    return note_lib.read_note(directory).get("fingerprint") == fingerprint

  if existed and not prepared.make_room(directory, is_current):
    return directory
  if is_complete:
    logging.info("%s has changed since it was prepared: preparing it anew.", root)
  _build(epath.Path(data_dir), layout, fingerprint)
  return directory


def read_classes(
  data_dir: epath.PathLike, root: epath.PathLike, ignore_label: int
) -> prepared.ClassMetadata:
  """Reads what the labels mean; only a folder that is gone needs prepared data for that.

  Args:
    data_dir: directory of all prepared data (local or gs://).
    root: the user's folder.
    ignore_label: label of the pixels that belong to no class; -1: by their number.

  Returns:
    The classes, with the ignore label that is meant.

  Raises:
    FileNotFoundError, ValueError: as of `prepare_folder`.
  """
  root = source.absolute_root(root)
  if root.is_dir():
    return layout_lib.read_classes(root, ignore_label)
  return prepared.read_metadata(prepare_folder(data_dir, root, ignore_label))


def _without_root(directory: epath.Path, root: epath.Path, ignore_label: int) -> epath.Path:
  metadata = prepared.read_metadata(directory)
  stored = metadata.ignore_label
  if stored != layout_lib.resolve_ignore_label(ignore_label, metadata.num_classes):
    raise ValueError(
      f"{directory} was prepared with the ignore label {stored}, not {ignore_label}, and its"
      f" folder {root} is gone: ask for {stored} or bring the folder back."
    )
  logging.info("%s is not there: using what was prepared from it in %s.", root, directory)
  return directory


def _build(data_dir: epath.Path, layout: layout_lib.Layout, fingerprint: str) -> None:
  # tfds takes a second to import, which a start with prepared data need not wait for.
  from input_pipeline.raw import builder

  labels = [pair.label for split in layout.pairs.values() for pair in split]
  metadata = layout.metadata
  known = label_history.Known.of(metadata.num_classes, metadata.ignore_label)
  history = label_history.find_history(labels, known)
  raw = contents.Contents(
    title=layout.root.name,
    root=str(layout.root),
    description=f"The data set in the folder {layout.root.name}.",
    metadata=metadata,
    items=layout.pairs,
    read=lambda pair: record.read_record(pair, metadata, history),
    note={"root": str(layout.root), "fingerprint": fingerprint},
  )
  builder.build(source.NAME, raw, data_dir, config_name=source.key(layout.root))
