"""Preparations that meet what is no readable file: real commands, real pipes, a limit of time."""

import os

import numpy as np
import pytest

from input_pipeline.folder import prepare
from input_pipeline.prepare import subset
from tests import programs

LATIN = os.fsdecode(b"caf\xe9")


def run(*arguments, command=("-m", "input_pipeline.prepare")):
  """Runs a command, for a minute at most; a pipe that is opened would take for ever."""
  return programs.run(*command, *arguments, timeout=60)


@pytest.fixture(name="root")
def _root(tmp_path, raw_files):
  root = tmp_path / "photos"
  for split, count in (("train", 7), ("val", 2)):
    for index in range(count):
      raw_files.jpeg(root / "images" / split / f"{index}.jpg", 9, 11)
      label = np.full((9, 11), index % 2, np.uint8)
      raw_files.png(root / "annotations" / split / f"{index}.png", label)
  (root / "classes.txt").write_text("ground\nbush\n")
  return root


def replace(path, make):
  path.unlink()
  make(path)


def test_all_odd_files_of_a_split_are_named_at_once(root, tmp_path):
  images, labels = root / "images" / "train", root / "annotations" / "train"
  replace(images / "0.jpg", os.mkfifo)
  replace(images / "1.jpg", lambda path: path.mkdir())
  replace(images / "2.jpg", lambda path: path.symlink_to("nowhere"))
  replace(labels / "3.png", lambda path: path.symlink_to("3.png"))
  replace(labels / "4.png", os.mkfifo)
  (images / "5.jpg").write_bytes(b"")
  (images / "6.jpg").rename(images / f"{LATIN}.jpg")
  (labels / "6.png").rename(labels / f"{LATIN}.png")
  done = run("folder", f"--root={root}", f"--data_dir={tmp_path / 'data'}")
  assert done.returncode == 1 and "Traceback" not in done.stderr
  message = done.stderr[done.stderr.index("7 of 7 train examples are not usable:") :]
  assert message.splitlines()[1:] == [
    f"  {images / '0.jpg'}: it is a named pipe, not a file",
    f"  {images / '1.jpg'}: it is a folder, not a file",
    f"  {images / '2.jpg'}: it is a link to nowhere, which does not exist",
    f"  {labels / '3.png'}: it is a link that leads back to itself",
    f"  {labels / '4.png'}: it is a named pipe, not a file",
    "  ... and 2 more",
    "Mend or remove these files (image and label together), then start again.",
  ]
  (images / "1.jpg").rmdir()
  for index in range(5):
    (images / f"{index}.jpg").unlink(missing_ok=True)
    (labels / f"{index}.png").unlink()
  with pytest.raises(ValueError) as error:
    prepare.prepare_folder(tmp_path / "data", root, 255)
  assert str(error.value).splitlines()[1:3] == [
    f"  {images / '5.jpg'}: the image cannot be read (the file is empty)",
    f"  {images}/caf\\xe9.jpg: the name holds bytes that are no UTF-8; rename it",
  ]


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", ["classes.txt", "flip_pairs.txt"])
@pytest.mark.parametrize(
  ("make", "kind"),
  [
    (os.mkfifo, "it is a named pipe, not a file"),
    (os.mkdir, "it is a folder, not a file"),
    (lambda path: os.symlink("none", path), "it is a link to none, which does not exist"),
  ],
)
def test_text_files(root, tmp_path, name, make, kind):
  (root / name).unlink(missing_ok=True)
  make(root / name)
  with pytest.raises(ValueError, match=rf"{name}: {kind}; put a text file in its place"):
    prepare.prepare_folder(tmp_path / "data", root, 255)


def test_folders_that_are_none_and_names_that_are_no_utf_8(root, tmp_path):
  moved = root / "elsewhere"
  (root / "images" / "val").rename(moved)
  os.mkfifo(root / "images" / "val")
  with pytest.raises(FileNotFoundError, match=r"images/val is missing \(it is a named pipe"):
    prepare.prepare_folder(tmp_path / "data", root, 255)
  (root / "images" / "val").unlink()
  (root / "images" / "val").symlink_to(moved)  # links are what they lead to
  link = root / "images" / "train" / "0.jpg"
  link.rename(root / "0.jpg")
  link.symlink_to(root / "0.jpg")
  prepare.prepare_folder(tmp_path / "data", root, 255)
  for arguments in ((tmp_path / LATIN, root), (tmp_path / "data", root.with_name(LATIN))):
    with pytest.raises(ValueError, match=r"caf\\xe9.*: the name holds bytes that are no UTF-8"):
      prepare.prepare_folder(*arguments, 255)


PUBLISHED = """
import sys
from input_pipeline.prepare import published
for name in sys.argv[2:]:
  try:
    published.prepare_published(name, f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/data")
  except (ValueError, OSError) as error:
    print(str(error).replace(sys.argv[1], ""))
"""


def test_published_data_sets(tmp_path, raw_files):
  """Each has a pipe among its images and one among its labels, and MHP-v2 one of three channels."""
  folders = {
    "ade20k": ("ADEChallengeData2016/images/{}ing", "ADEChallengeData2016/annotations/{}ing"),
    "coco_stuff": ("images/{}2017", "stuffthingmaps_trainval2017/{}2017"),
    "mhp_v2": ("LV-MHP-v2/{}_img", "LV-MHP-v2/{}_seg"),
  }
  for name, (images, labels) in folders.items():
    for split in ("train", "val"):
      folder = "validation" if (name, split) == ("ade20k", "val") else None
      of = [
        tmp_path / name / (text.format(split) if folder is None else text.replace("{}ing", folder))
        for text in (images, labels)
      ]
      for index in range(3):
        raw_files.jpeg(of[0] / f"{index}.jpg", 9, 11)
        raw_files.png(of[1] / f"{index}.png", np.ones((9, 11), np.uint8))
      if split == "train":
        replace(of[0] / "0.jpg", os.mkfifo)
        replace(of[1] / "1.png", os.mkfifo)
  os.mkdir(tmp_path / "ade20k_full")
  (tmp_path / "ade20k_full" / "ADE20K_2021_17_01").mkdir()
  os.mkfifo(tmp_path / "ade20k_full" / "ADE20K_2021_17_01" / "index_ade20k.pkl")
  done = run(str(tmp_path), *folders, "ade20k_full", command=("-c", PUBLISHED))
  assert done.returncode == 0, done.stderr
  assert "it is a folder" not in done.stdout
  for name, (images, labels) in folders.items():
    for place, file in ((images, "0.jpg"), (labels, "1.png")):
      path = f"/{name}/{place.format('train')}/{file}"
      assert f"  {path}: it is a named pipe, not a file\n" in done.stdout
  assert "index_ade20k.pkl: it is a named pipe, not a file; use the published file" in done.stdout


@pytest.mark.usefixtures("no_waiting")
def test_image_lists(tmp_path):
  path = tmp_path / "list.txt"
  os.mkfifo(path)
  with pytest.raises(
    ValueError, match=r"list\.txt: it is a named pipe, not a file; put a text file"
  ):
    subset.Choice(image_list=str(path)).as_note()
  path.unlink()
  path.write_bytes(b"caf\xe9.jpg\n")
  with pytest.raises(ValueError, match=r"list\.txt is not UTF-8 text"):
    subset.Choice(image_list=str(path)).as_note()
