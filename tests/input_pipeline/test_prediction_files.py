"""Which files a prediction reads and writes."""

import json
import os
import pathlib

import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import prediction_files


@pytest.fixture(name="folder")
def _folder(tmp_path):
  folder = epath.Path(tmp_path / "in")
  folder.mkdir()
  return folder


def touch(folder, *names):
  for name in names:
    (folder / name).write_text("")
  return [folder / name for name in names]


def test_images_are_listed_by_name_without_what_is_no_image(folder):
  touch(folder, "b.JPG", "a.png", ".hidden.png", "notes.txt", "c.d.jpeg")
  assert [path.name for path in prediction_files.list_images(folder)] == [
    "a.png",
    "b.JPG",
    "c.d.jpeg",
  ]
  assert prediction_files.list_images(str(folder / "notes.txt")) == [folder / "notes.txt"]


def test_nothing_to_predict(folder):
  with pytest.raises(FileNotFoundError, match=r"in holds no images \(\.jpg"):
    prediction_files.list_images(folder)
  with pytest.raises(FileNotFoundError, match=r"--input=.*none does not exist"):
    prediction_files.list_images(folder / "none")
  with pytest.raises(FileNotFoundError, match=r"--input=.*\*\.bmp matches no images"):
    prediction_files.list_images(folder / "*.bmp")
  with pytest.raises(FileNotFoundError, match=r"matches no images"):
    prediction_files.list_images(folder / "none" / "*.png")


def test_images_in_subfolders_are_counted(folder, tmp_path, caplog):
  (folder / "day" / "noon").mkdir(parents=True)
  touch(folder / "day", "a.jpg", "notes.txt", ".hidden.jpg")
  touch(folder / "day" / "noon", "b.tif")
  with pytest.raises(
    FileNotFoundError,
    match=r"in holds no images .*; there are 2 in its subfolders, which --input='.*/in/\*\*/\*' t",
  ):
    prediction_files.list_images(folder)
  touch(folder, "top.png")
  assert prediction_files.list_images(folder) == [folder / "top.png"]
  [message] = caplog.messages
  assert message.startswith(f"--input={folder}: 1 images, without 2 in its subfolders, which")
  caplog.clear()
  prediction_files.list_images(folder, folder / "day")  # where results lie
  assert not caplog.messages
  assert len(prediction_files.list_images(folder / "**" / "*")) == 3
  os.symlink(folder, folder / "day" / "up")  # round and round
  prediction_files.list_images(folder)
  (folder / "day" / "up").unlink()
  for index in range(1001):
    (folder / "day" / f"{index}.bmp").touch()
  prediction_files.list_images(folder)
  assert "without more than 1,000 in its subfolders" in caplog.text


@pytest.mark.usefixtures("no_waiting")
def test_what_is_neither_folder_nor_file(folder):
  os.mkfifo(folder / "pipe.jpg")
  (folder / "album.jpg").mkdir()
  os.symlink("nowhere", folder / "link.jpg")
  pipe, link = "it is a named pipe, not a file", "it is a link to nowhere, which does not exist"
  for name, reason in (("pipe", pipe), ("link", link)):
    with pytest.raises(ValueError, match=rf"--input=.*{name}\.jpg: {reason}; give a folder, an im"):
      prediction_files.list_images(folder / f"{name}.jpg")
  listed = prediction_files.list_images(folder)
  assert [path.name for path in listed] == ["album.jpg", "link.jpg", "pipe.jpg"]
  album = "it is a folder, not a file"
  for path, reason in zip(listed, (album, link, pipe), strict=True):
    for read in (prediction_files.image_size, prediction_files.read_image):
      with pytest.raises(prediction_files.ImageError, match=f"{path.name}: .*{reason}"):
        read(path)


def test_patterns_match_images_in_any_folder(folder, monkeypatch):
  for name in ("day", "night"):
    (folder / name).mkdir()
  touch(folder / "day", "a.jpg", "b.png", "notes.txt")
  touch(folder / "night", "c.jpg", ".hidden.jpg")

  def names(pattern):
    return [path.name for path in prediction_files.list_images(pattern)]

  assert names(folder / "*" / "*.jpg") == ["a.jpg", "c.jpg"]
  assert names(f"{folder}/**/*") == ["a.jpg", "b.png", "c.jpg"]
  assert names(f"{folder}/[d]ay/?.png") == ["b.png"]
  monkeypatch.chdir(folder)
  assert names("day/*") == ["a.jpg", "b.png"] and names("*/c.jpg") == ["c.jpg"]
  (folder / "odd[1].png").write_text("")
  assert names(folder / "odd[1].png") == ["odd[1].png"]  # a file of this very name


def test_outputs_keep_the_whole_stem():
  assert prediction_files.output_names(epath.Path("in/c.d.jpeg")) == (
    "c.d.png",
    "c.d_overlay.png",
    "c.d.npz",
  )


def test_outputs_in_each_others_way_are_refused(folder, tmp_path):
  same_stem = touch(folder, "a.jpg", "a.png", "b.jpg")
  with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both .*out/a\.png; rename one$"):
    prediction_files.check_output(same_stem, tmp_path / "out")
  two = [*same_stem, *touch(folder, "c.jpg", "c.png")]
  with pytest.raises(ValueError, match=r"out/a\.png; rename one \(and likewise in 1 more cases\)"):
    prediction_files.check_output(two, tmp_path / "out")
  overlay = touch(folder, "b.jpg", "b_overlay.jpg")
  with pytest.raises(ValueError, match=r"b\.jpg and .*b_overlay\.jpg would both .*b_overlay\.png"):
    prediction_files.check_output(overlay, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(folder, tmp_path):
  images = touch(folder, "a.png")
  (tmp_path / "link").symlink_to(folder)
  for output in (folder, folder / ".." / "in", tmp_path / "link"):
    with pytest.raises(ValueError, match="is the folder of the input images"):
      prediction_files.check_output(images, output)
  with pytest.raises(ValueError, match=r"a\.png is a file"):
    prediction_files.check_output(images, folder / "a.png")
  assert prediction_files.check_output(images, folder / "out") == folder / "out"


def test_an_output_that_cannot_be_written_is_refused_at_once(folder, tmp_path):
  images = touch(folder, "a.png")
  if pathlib.Path("/proc").is_dir():  # where nobody, the administrator included, can make files
    with pytest.raises(ValueError, match=r"--output=/proc/out cannot be written"):
      prediction_files.check_output(images, "/proc/out")
  (tmp_path / "file").write_text("mine")
  with pytest.raises(ValueError, match=r"--output=.*cannot be written .*Not a directory"):
    prediction_files.check_output(images, tmp_path / "file" / "out")
  locked = tmp_path / "locked"
  locked.mkdir(mode=0o555)
  if os.geteuid() != 0:  # whom no permissions keep out
    with pytest.raises(ValueError, match=r"--output=.*new cannot be written .*Permission denied"):
      prediction_files.check_output(images, locked / "new")
  assert list(locked.iterdir()) == []


def test_images_too_large_are_refused_by_their_header(folder):
  Image.new("L", (12000, 9000)).save(folder / "huge.png", compress_level=1)
  Image.new("L", (30, 20)).save(folder / "small.png")
  size = prediction_files.image_size
  assert size(folder / "small.png", 600) == (20, 30)
  with pytest.raises(prediction_files.ImageError, match=r"30 x 20 are 600 pixels, more than.*=599"):
    size(folder / "small.png", 599)
  with pytest.raises(prediction_files.ImageError, match=r"huge\.png: .*108000000 pixels"):
    size(folder / "huge.png", 1_000_000)


def test_an_empty_file_and_one_of_another_kind(folder):
  touch(folder, "empty.png")
  (folder / "text.png").write_text("no image")
  for name, reason in (("empty", "the file is empty"), ("text", "no image of a known kind")):
    with pytest.raises(prediction_files.ImageError, match=f"{name}.png: .*{reason}"):
      prediction_files.image_size(folder / f"{name}.png")


def test_a_json_list_appears_complete(folder):
  path = folder / "list.json"
  path.write_text("of an earlier prediction")
  writer = prediction_files.JsonListWriter(path)
  writer.write({"name": "caf\u00e9"})
  writer.write([1, 2])
  assert path.read_text() == "of an earlier prediction"
  writer.close()
  assert json.loads(path.read_text()) == [{"name": "caf\u00e9"}, [1, 2]]
  prediction_files.JsonListWriter(path).close()
  assert json.loads(path.read_text()) == []
  assert [entry.name for entry in folder.iterdir()] == ["list.json"]
  assert prediction_files.part_name("list.json", 2, 4) == "list-2-of-4.json"
  assert prediction_files.part_name("list.json", 0, 1) == "list.json"


def test_a_json_list_takes_any_file_name(folder):
  """Linux allows bytes that are no UTF-8, which Python stands surrogates for."""
  name = os.fsdecode(b"caf\xe9.png")
  writer = prediction_files.JsonListWriter(folder / "list.json")
  writer.write({"file_name": name})
  writer.close()
  assert json.loads((folder / "list.json").read_text()) == [{"file_name": name}]


def test_size_is_that_of_the_upright_image(folder):
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees
  Image.new("RGB", (30, 20)).save(folder / "turned.jpg", exif=exif)
  Image.new("L", (30, 20)).save(folder / "plain.png")
  assert prediction_files.image_size(folder / "turned.jpg") == (30, 20)
  assert prediction_files.image_size(folder / "plain.png") == (20, 30)
  assert prediction_files.read_image(folder / "turned.jpg").shape == (30, 20, 3)
  assert prediction_files.read_image(folder / "plain.png").shape == (20, 30, 3)


def test_unreadable_files_are_named(folder):
  (folder / "text.jpg").write_text("no image")
  Image.new("RGB", (300, 200)).save(folder / "whole.jpg")
  (folder / "half.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-200])
  assert prediction_files.image_size(folder / "half.jpg") == (200, 300)
  for read, name in (
    (prediction_files.image_size, "text.jpg"),
    (prediction_files.read_image, "text.jpg"),
    (prediction_files.read_image, "half.jpg"),
    (prediction_files.read_image, "missing.jpg"),
  ):
    with pytest.raises(prediction_files.ImageError, match=name):
      read(folder / name)


@pytest.mark.parametrize(
  ("num_classes", "dtype"), [(2, np.uint8), (256, np.uint8), (847, np.uint16)]
)
def test_labels_come_back_bit_by_bit(folder, num_classes, dtype):
  assert prediction_files.label_dtype(num_classes) == dtype
  label = np.random.default_rng(0).integers(0, num_classes, (20, 30)).astype(dtype)
  (folder / "label.png").write_text("of an earlier prediction")
  prediction_files.write_png(folder / "label.png", label)
  read = np.array(Image.open(folder / "label.png"))
  assert read.dtype == dtype
  np.testing.assert_array_equal(read, label)


def test_scores_come_back_bit_by_bit(folder):
  scores = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
  prediction_files.write_scores(folder / "a.b.npz", scores)
  with np.load(folder / "a.b.npz") as file:
    assert file.files == ["scores"]
    np.testing.assert_array_equal(file["scores"], scores)
