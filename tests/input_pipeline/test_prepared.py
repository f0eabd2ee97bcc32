import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from input_pipeline import class_stats, pipeline, prepared
from input_pipeline.folder import prepare
from tests import programs, recipes


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """A prepared data set of 4 training images and 1 validation image."""
  base = tmp_path_factory.mktemp("prepared")
  for split, num_images in (("train", 4), ("val", 1)):
    (base / "root" / "images" / split).mkdir(parents=True)
    (base / "root" / "annotations" / split).mkdir(parents=True)
    for index in range(num_images):
      label = Image.fromarray(np.full((8, 9), index % 2, np.uint8))
      label.convert("RGB").save(base / "root" / "images" / split / f"{index}.jpg")
      label.save(base / "root" / "annotations" / split / f"{index}.png")
  (base / "root" / "classes.txt").write_text("a\nb\n")
  return prepare.prepare_folder(base / "data", base / "root", 255)


def test_metadata_round_trip(tmp_path):
  metadata = prepared.ClassMetadata(
    name="x",
    class_names=("Straße", "left arm", "right arm"),
    dataset_ids=(3, 7, 9),
    ignore_label=255,
    flip_pairs=((1, 2),),
  )
  prepared.write_metadata(tmp_path, metadata)
  assert prepared.read_metadata(tmp_path) == metadata
  assert metadata.num_classes == 3


def test_missing_metadata_names_the_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"classes\.json is missing"):
    prepared.read_metadata(tmp_path)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"dataset_ids": (1,)}, "2 class names but 1 ids"),
    ({"ignore_label": 1}, "ignore label 1 must lie between the number of classes"),
    ({"ignore_label": 65536}, "ignore label 65536"),
    ({"flip_pairs": ((0, 2),)}, r"flip pair \(0, 2\)"),
    ({"flip_pairs": ((1, 1),)}, r"flip pair \(1, 1\)"),
  ],
)
def test_inconsistent_metadata(changes, message):
  fields = {"name": "x", "class_names": ("a", "b"), "dataset_ids": (1, 2), "ignore_label": 255}
  with pytest.raises(ValueError, match=message):
    prepared.ClassMetadata(**fields | changes)


def test_pixel_counts_round_trip(tmp_path):
  row = class_stats.count_pixels(np.array([[0, 1]]), 2, 255)
  prepared.write_pixel_counts(tmp_path, "val", class_stats.PixelCounts.from_rows([(1, 2)], [row]))
  assert (tmp_path / "val_pixel_counts.npz").exists()
  counts = prepared.read_pixel_counts(tmp_path, "val")
  assert (counts.height.tolist(), counts.width.tolist()) == ([1], [2])
  assert [array.tolist() for array in counts.row(0)] == [[0, 1], [1, 1]]


def test_source_gives_bytes(directory):
  source = prepared.open_source(directory, "train")
  record = source[np.int64(3)]
  assert len(source) == 4
  assert record["file_name"] == "3.jpg"
  assert record["image"].startswith(b"\xff\xd8") and record["label"].startswith(b"\x89PNG")
  assert [record["file_name"] for record in source] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
  for index in (4, -1):
    with pytest.raises(IndexError, match=f"no record {index}; it has 4"):
      source[index]


def test_source_names_directory_and_split(directory):
  assert (
    repr(prepared.open_source(directory, "val")) == f"PreparedSource({str(directory)!r}, 'val')"
  )


def test_source_pickles_small(directory):
  source = prepared.open_source(directory, "train")
  data = pickle.dumps(source)
  assert len(data) < 1000
  assert pickle.loads(data)[2] == source[2]


def _read_file_name(source, index):
  return source[index]["file_name"]


def test_source_works_in_spawned_process(directory):
  source = prepared.open_source(directory, "train")
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.apply(_read_file_name, (source, 1)) == "1.jpg"


def test_unknown_split(directory):
  with pytest.raises(ValueError, match="no split 'test'; the splits are train, val"):
    prepared.open_source(directory, "test")


def test_directory_without_data_names_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"classes\.json, dataset_info\.json"):
    prepared.open_source(tmp_path, "train")


@pytest.mark.parametrize(
  "name",
  ["folder-val.array_record-00000-of-00001", "train_pixel_counts.npz", "features.json"],
)
def test_every_file_counts(directory, tmp_path, name):
  for path in directory.iterdir():
    if path.name != name:
      path.copy(tmp_path / path.name)
  assert prepared.missing_files(directory) == []
  assert prepared.missing_files(tmp_path) == [name]


def test_room_is_made_only_where_nothing_serves(directory, tmp_path):
  place = epath.Path(tmp_path) / "x" / "1.0.0"
  assert prepared.make_room(place)  # as nothing is there
  for damaged, is_wanted in ((False, False), (True, True)):
    shutil.copytree(directory, place)
    assert not prepared.make_room(place)
    assert not prepared.missing_files(place)
    if damaged:
      (place / "classes.json").unlink()
    assert prepared.make_room(place, lambda is_wanted=is_wanted: is_wanted)
    assert list(place.parent.iterdir()) == []


def test_a_directory_of_an_older_version_is_read_unchecked(directory, tmp_path):
  shutil.copytree(directory, tmp_path / "old")
  (tmp_path / "old" / "SHA256SUMS").unlink()
  assert prepared.missing_files(tmp_path / "old") == []
  assert prepared.read_metadata(tmp_path / "old") == prepared.read_metadata(directory)
  sources = [prepared.open_source(path, "train") for path in (directory, tmp_path / "old")]
  assert list(sources[0]) == list(sources[1])
  for name in ("classes.json", "dataset_info.json", "features.json", "train_pixel_counts.npz"):
    path = tmp_path / "old" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{name} is not readable .*prepare the data again"):
      prepared.read_metadata(path.parent)
      prepared.read_pixel_counts(path.parent, "train")
      prepared.open_source(path.parent, "train")
    path.write_bytes(data)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_record_is_named_in_training(directory, tmp_path, num_workers):
  place = tmp_path / "1.0.0"
  shutil.copytree(directory, place)
  name = "folder-train.array_record-00000-of-00001"
  data = bytearray((place / name).read_bytes())
  # The PNG of the label of the last image, of which all four have one.
  data[data.rindex(b"IHDR", 0, len(data)) + 6] ^= 1
  (place / name).write_bytes(data)
  source = prepared.open_source(place, "train")
  assert [source[index]["file_name"] for index in range(3)] == ["0.jpg", "1.jpg", "2.jpg"]
  config = recipes.train_pipeline(
    batch_size=4, crop_size=8, base_size=8, max_size=8, ignore_label=255, num_workers=num_workers
  )
  message = rf"record 3 of {place / name} is not readable .*hash mismatch.*remove {place} and prep"
  with pipeline.train_iterator(source, config) as iterator:
    with pytest.raises(ValueError, match=message):
      next(iterator)


_NO_NETWORK = """
import sys

def forbid_network(event, arguments):
  if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
    raise SystemExit(f"network: {event} {arguments}")

sys.addaudithook(forbid_network)
from input_pipeline import prepared
from input_pipeline.folder import prepare
from tests import recipes
directory = prepare.prepare_folder(sys.argv[1], sys.argv[2], 255)
prepared.open_source(directory, "val")[0]
sys.exit("tensorflow was imported" if "tensorflow" in sys.modules else 0)
"""


def test_preparing_and_reading_need_no_network_and_no_tensorflow(directory, tmp_path):
  root = directory.parents[2].parent / "root"
  programs.run("-c", _NO_NETWORK, tmp_path, root, check=True)
