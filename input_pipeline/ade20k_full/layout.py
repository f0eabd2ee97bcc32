"""The published files of ADE20K-Full.

`ADE20K_2021_17_01/index_ade20k.pkl` lists folder and file name of every image; beside `X.jpg`
stands `X_seg.png`, whose red and green hold the class: id = R // 10 * 256 + G. Ids outside of the
table of 847 classes become the ignore label. Images with a shorter side above 512 px are stored
with one of 512 px, labels likewise. The second part of the file name (`ADE_val_...`) is the split.
"""

import dataclasses

import cv2
import numpy as np
from etils import epath

from input_pipeline import class_tables, decode
from input_pipeline.ade20k_full import index as index_lib
from input_pipeline.raw import contents, files, label_values, readers, record

RAW_FOLDERS = ("ADE20K_2021_17_01",)
(_TOP,) = RAW_FOLDERS
_INDEX = "index_ade20k.pkl"
_MAX_SHORTER_SIDE = 512  # px
_JPEG_QUALITY = 95  # of images that are resized


def read_contents(raw_dir: epath.Path, table: class_tables.ClassTable) -> contents.Contents:
  """Lists the images and labels of the index.

  Args:
    raw_dir: directory that holds `RAW_FOLDERS`.
    table: class table of the data set.

  Returns:
    What to store.

  Raises:
    FileNotFoundError: if the folder or the index is missing.
    ValueError: if the index cannot be read or has no images of a split.
  """
  pairs = _list_pairs(raw_dir, raw_dir / _TOP / _INDEX)
  metadata = table.metadata
  values = label_values.LabelValues(metadata, metadata.dataset_ids, ignore_unknown=True)

  def read(pair: files.Pair) -> record.Record:
    image = record.read_image(pair.image, mend_truncated=True)
    ids = decode_ids(record.read_rgb_label(pair.label))  # [H, W]
    record.check_size(pair.label, ids, image.path, image.size)
    image, ids = _limit_size(image, ids)
    return values.make_record(pair.file_name, image, record.RawLabel(pair.label, ids))

  return readers.make_contents(table, raw_dir, pairs, read)


def _list_pairs(raw_dir: epath.Path, path: epath.Path) -> dict[str, tuple[files.Pair, ...]]:
  pairs: dict[str, dict[str, files.Pair]] = {"train": {}, "val": {}}
  for folder, file_name in index_lib.read_index(path):
    parts = file_name.split("_")
    if len(parts) < 2 or not file_name.endswith(".jpg"):
      raise ValueError(f"{path}: {file_name!r} is no name like ADE_train_00000001.jpg.")
    if ".." in folder.split("/") or folder.startswith("/") or "/" in file_name:
      raise ValueError(f"{path}: {folder}/{file_name} lies outside of {raw_dir}.")
    split = pairs["val" if parts[1] == "val" else "train"]
    stem = file_name.removesuffix(".jpg")
    if stem in split:
      raise ValueError(f"{path} lists {file_name} twice: {split[stem].image.parent} and {folder}.")
    directory = raw_dir / folder
    split[stem] = files.Pair(stem, directory / file_name, directory / f"{stem}_seg.png")
  for name, split in pairs.items():
    if not split:
      raise ValueError(f"{path} lists no {name} images: use the published file.")
  return {name: tuple(split[stem] for stem in sorted(split)) for name, split in pairs.items()}


def decode_ids(rgb: np.ndarray) -> np.ndarray:
  """Class ids of a label picture.

  Args:
    rgb: uint8 [H, W, 3].

  Returns:
    R // 10 * 256 + G, uint16 [H, W].
  """
  return (rgb[..., 0] // 10).astype(np.uint16) * 256 + rgb[..., 1]


def stored_size(height: int, width: int) -> tuple[int, int]:
  """Size in pixels (height, width) that an image of height x width px is stored with."""
  shorter, longer = sorted((height, width))
  if shorter <= _MAX_SHORTER_SIDE:
    return height, width
  new_longer = round(longer / shorter * _MAX_SHORTER_SIDE)
  if height < width:
    return _MAX_SHORTER_SIDE, new_longer
  return new_longer, _MAX_SHORTER_SIDE


def _limit_size(image: record.RawImage, ids: np.ndarray) -> tuple[record.RawImage, np.ndarray]:
  height, width = stored_size(*image.size)
  if (height, width) == image.size:
    return image, ids
  pixels = decode.decode_image(image.data, str(image.path))  # [H, W, 3]
  pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
  ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
  bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
  _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
  resized = dataclasses.replace(image, data=data.tobytes(), size=(height, width))
  return resized, ids
