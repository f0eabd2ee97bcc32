import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from input_pipeline import class_stats, prepared
from input_pipeline.folder import layout, prepare, source

REPOSITORY = pathlib.Path(__file__).parents[3]
CAMVID = pathlib.Path(
  os.environ.get("LTSS_CAMVID_SMALL", REPOSITORY.parent / "shared" / "camvid_small")
)


def decode(data):
  return np.asarray(Image.open(io.BytesIO(data)))


def snapshot(directory):
  """Contents of every file under `directory`."""
  return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


PREPARE = """
import sys, time
from input_pipeline.folder import prepare
from input_pipeline.raw import record

def read(pair, *rest, real=record.read_record):
  if pair.label.match(sys.argv[3]):
    time.sleep(100)
  return real(pair, *rest)

record.read_record = read
prepare.prepare_folder(sys.argv[1], sys.argv[2], 255)
"""


def start_preparation(root, data_dir, slow_label="none"):
  """Prepares in a process of its own, which stays at one label, as if its disk were slow."""
  command = [sys.executable, "-c", PREPARE, data_dir, root, slow_label]
  return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)


def replace_label(root, split, stem, edit):
  path = root / "annotations" / split / f"{stem}.png"
  label = np.array(Image.open(path))
  edit(label)
  Image.fromarray(label).save(path)
  return path


def test_records_are_the_files_in_order(folder, tmp_path):
  (folder / "flip_pairs.txt").write_text("left arm\tright arm")
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert directory.parent.parent == tmp_path / "data" / "folder"
  assert directory.parent.name.startswith("My_photos-") and directory.name == "1.0.0"
  metadata = prepared.read_metadata(directory)
  assert metadata.class_names == ("sky", "left arm", "right arm", "road")
  assert (metadata.ignore_label, metadata.flip_pairs) == (255, ((1, 2),))
  for split, num_images in (("train", 5), ("val", 3)):
    records = prepared.open_source(directory, split)
    assert [records[i]["file_name"] for i in range(len(records))] == [
      f"{index}.jpg" for index in range(num_images)
    ]
    for index in range(num_images):
      image = folder / "images" / split / f"{index}.jpg"
      label = folder / "annotations" / split / f"{index}.png"
      assert records[index]["image"] == image.read_bytes()
      np.testing.assert_array_equal(decode(records[index]["label"]), decode(label.read_bytes()))


def test_statistics_agree_with_the_label_files(folder, tmp_path):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  labels = [decode((folder / "annotations" / "train" / f"{i}.png").read_bytes()) for i in range(5)]
  stats = class_stats.class_stats(prepared.read_pixel_counts(directory, "train"), 4)
  assert stats.num_images == 5
  for index in range(4):
    shares = [np.mean(label == index) for label in labels]
    assert stats.images_with_class[index] == np.count_nonzero(shares)
    assert stats.pixel_share_sum[index] == pytest.approx(sum(shares), rel=1e-14)  # order of sums


def test_second_start_changes_nothing_and_is_fast(folder, tmp_path):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  before = {path: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()}
  start = time.perf_counter()
  assert prepare.prepare_folder(str(tmp_path / "data"), str(folder) + "/", 255) == directory
  assert time.perf_counter() - start < 1  # 10 ms here; the preparation itself reads every file
  assert {path: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()} == before


def test_preparation_is_deterministic(folder, tmp_path):
  first = prepare.prepare_folder(tmp_path / "a", folder, 255)
  second = prepare.prepare_folder(tmp_path / "b", folder, 255)
  first, second = snapshot(first), snapshot(second)
  assert len(first) == 9
  assert first == second


def test_nothing_else_is_left_in_data_dir(folder, tmp_path):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  directories = {path for path in (tmp_path / "data").rglob("*") if path.is_dir()}
  assert directories == {directory, directory.parent, directory.parent.parent}


def test_changed_folder_is_prepared_anew(folder, tmp_path, caplog):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  (folder / "images" / "train" / "4.jpg").unlink()
  (folder / "annotations" / "train" / "4.png").unlink()
  with caplog.at_level("INFO", logger="absl"):
    assert prepare.prepare_folder(tmp_path / "data", folder, 255) == directory
  assert "My photos has changed since it was prepared: preparing it anew" in caplog.text
  assert len(prepared.open_source(directory, "train")) == 4


def test_other_ignore_label_is_prepared_anew(folder, tmp_path):
  prepare.prepare_folder(tmp_path / "data", folder, 255)
  for split in ("train", "val"):
    for path in (folder / "annotations" / split).iterdir():
      replace_label(folder, split, path.stem, lambda label: np.copyto(label, 4, where=label == 255))
  directory = prepare.prepare_folder(tmp_path / "data", folder, 4)
  assert prepared.read_metadata(directory).ignore_label == 4


def test_two_roots_of_one_name_do_not_meet(folder, tmp_path):
  shutil.copytree(folder, tmp_path / "other" / folder.name)
  first = prepare.prepare_folder(tmp_path / "data", folder, 255)
  second = prepare.prepare_folder(tmp_path / "data", tmp_path / "other" / folder.name, 255)
  assert first != second
  assert len(prepared.open_source(first, "val")) == len(prepared.open_source(second, "val")) == 3


def test_relative_root_is_the_same_root(folder, tmp_path, monkeypatch):
  directory = source.prepared_directory("data", folder)
  monkeypatch.chdir(folder.parent)
  assert source.prepared_directory("data", folder.name) == directory
  assert source.prepared_directory("data", f"../{tmp_path.name}/{folder.name}/.") == directory


def test_bucket_root_keeps_its_scheme():
  assert str(source.absolute_root("gs://bucket/photos/")) == "gs://bucket/photos"


def test_prepared_data_serves_without_its_root(folder, tmp_path, caplog):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  shutil.rmtree(folder)
  with caplog.at_level("INFO", logger="absl"):
    assert prepare.prepare_folder(tmp_path / "data", folder, 255) == directory
  assert "My photos is not there: using what was prepared from it" in caplog.text
  with pytest.raises(ValueError, match="ignore label 255, not 254, and its folder .* is gone"):
    prepare.prepare_folder(tmp_path / "data", folder, 254)


def test_half_a_preparation_is_not_used_without_its_root(folder, tmp_path):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  next(pathlib.Path(directory).glob("*val*array_record*")).unlink()
  with pytest.raises(FileNotFoundError, match="holds no complete prepared data set"):
    prepared.open_source(directory, "train")
  moved = folder.rename(folder.parent / "moved")
  with pytest.raises(FileNotFoundError, match="My photos does not exist"):
    prepare.prepare_folder(tmp_path / "data", folder, 255)
  moved.rename(folder)
  prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert len(prepared.open_source(directory, "val")) == 3


def test_failed_preparation_leaves_nothing(folder, tmp_path):
  image = folder / "images" / "val" / "2.jpg"
  data = image.read_bytes()
  image.write_bytes(data[:300])
  with pytest.raises(ValueError, match=r"(?s)1 of 3 val examples .*2\.jpg: the image cannot be"):
    prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
  image.write_bytes(data)
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert len(prepared.open_source(directory, "val")) == 3


def test_killed_preparation_is_made_up_for(folder, tmp_path):
  process = start_preparation(folder, tmp_path / "data", "val/2.png")
  deadline = time.monotonic() + 30
  while not list((tmp_path / "data").rglob("train_pixel_counts.npz")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not source.prepared_directory(tmp_path / "data", folder).exists()
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert len(prepared.open_source(directory, "val")) == 3


def test_processes_that_prepare_at_once_share_one_result(folder, tmp_path):
  processes = [start_preparation(folder, tmp_path / "data") for _ in range(3)]
  assert [process.wait() for process in processes] == [0, 0, 0]
  directory = source.prepared_directory(tmp_path / "data", folder)
  assert list(directory.parent.iterdir()) == [directory]
  assert len(prepared.open_source(directory, "train")) == 5


def test_a_start_leaves_alone_what_another_has_prepared_meanwhile(folder, tmp_path, monkeypatch):
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  (folder / "classes.txt").write_text("sky\nleft arm\nright arm\nstreet\n")
  look = layout.fingerprint
  made_by_other = []

  def look_slowly(found):
    monkeypatch.undo()
    prepare.prepare_folder(tmp_path / "data", folder, 255)  # the other start, from begin to end
    made_by_other.append(os.stat(directory).st_ino)
    return look(found)

  monkeypatch.setattr(layout, "fingerprint", look_slowly)
  assert prepare.prepare_folder(tmp_path / "data", folder, 255) == directory
  assert made_by_other == [os.stat(directory).st_ino]
  assert prepared.read_metadata(directory).class_names[3] == "street"


def test_several_bad_files_are_reported_at_once(folder, tmp_path):
  (folder / "images" / "train" / "0.jpg").write_bytes(b"garbage")
  (folder / "annotations" / "train" / "1.png").write_bytes(b"garbage")

  def set_value(label):
    label[3, 4] = 77

  replace_label(folder, "train", "2", set_value)
  Image.new("L", (31, 24)).save(folder / "annotations" / "train" / "3.png")
  Image.new("RGB", (32, 24)).save(folder / "annotations" / "train" / "4.png")
  with pytest.raises(ValueError) as error:
    prepare.prepare_folder(tmp_path / "data", folder, 255)
  lines = str(error.value).splitlines()
  assert lines[0] == "5 of 5 train examples are not usable:"
  assert [line.split("My photos/")[1].split(":")[0] for line in lines[1:6]] == [
    "images/train/0.jpg",
    "annotations/train/1.png",
    "annotations/train/2.png",
    "annotations/train/3.png",
    "annotations/train/4.png",
  ]
  assert "label value 77" in lines[3] and "4 classes" in lines[3] and "label 255" in lines[3]
  assert "31 x 24" in lines[4] and "32 x 24" in lines[4]
  assert lines[6].startswith("Mend or remove these files")


def test_split_without_labelled_pixels(folder, tmp_path):
  for index in range(3):
    replace_label(folder, "val", index, lambda label: label.fill(255))
  with pytest.raises(
    ValueError, match="All the pixels of the val labels of .*My photos .*ignore label 255"
  ):
    prepare.prepare_folder(tmp_path / "data", folder, 255)


def test_absent_class_is_a_warning(folder, tmp_path, caplog):
  with (folder / "classes.txt").open("a") as file:
    file.write("unicorn\n")
  prepare.prepare_folder(tmp_path / "data", folder, 255)
  assert "1 of 5 classes occur in no train image: unicorn" in caplog.text


def test_all_labels_of_a_data_set_have_one_depth(folder, tmp_path):
  path = folder / "annotations" / "train" / "0.png"
  label = decode(path.read_bytes()).astype(np.uint16)
  Image.fromarray(label).save(path)
  image = Image.open(folder / "annotations" / "train" / "1.png")
  image.putpalette([1, 2, 3] * 256)
  image.save(folder / "annotations" / "train" / "1.png")
  directory = prepare.prepare_folder(tmp_path / "data", folder, 255)
  records = prepared.open_source(directory, "train")
  labels = [decode(records[index]["label"]) for index in range(5)]
  assert {x.dtype for x in labels} == {np.dtype(np.uint8)}
  np.testing.assert_array_equal(labels[0], label)


def test_more_than_255_classes_with_8_bit_labels(folder, tmp_path):
  (folder / "classes.txt").write_text("\n".join(f"class {index}" for index in range(300)))
  directory = prepare.prepare_folder(tmp_path / "data", folder, 65535)
  stored = decode(prepared.open_source(directory, "train")[0]["label"])
  assert stored.dtype == np.uint16
  np.testing.assert_array_equal(
    stored, decode((folder / "annotations" / "train" / "0.png").read_bytes())
  )


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"the photographs are not in {CAMVID}")
def test_real_photographs(tmp_path):
  directory = prepare.prepare_folder(tmp_path / "data", CAMVID, 255)
  metadata = prepared.read_metadata(directory)
  assert metadata.num_classes == 11
  for split, num_images in (("train", 96), ("val", 32)):
    records = prepared.open_source(directory, split)
    counts = prepared.read_pixel_counts(directory, split)
    assert len(records) == len(counts) == num_images
    for index in (0, num_images - 1):
      record = records[index]
      label = decode(record["label"])
      class_ids, pixels = counts.row(index)
      assert Image.open(io.BytesIO(record["image"])).size == (320, 240)
      assert {int(i): int(n) for i, n in zip(class_ids, pixels, strict=True)} == {
        i: int(np.sum(label == i)) for i in range(11) if np.any(label == i)
      }
  info = json.loads((directory / "source.json").read_text())
  assert info["root"] == str(CAMVID)
