"""The long-tailed data sets and parts of other data sets, by list and by sampler."""

import json
import os
import pathlib

import numpy as np
import pytest

from input_pipeline import class_stats, datasets, lt_sampling, prepared
from input_pipeline.prepare import command, ensure_prepared, published, subset
from tests import programs

NUM_TRAIN = 12


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  """COCO-Stuff of 12 + 2 images: class 0 in all, class c = 1..5 in those whose number c divides."""
  for folder, count in (("train2017", NUM_TRAIN), ("val2017", 2)):
    for index in range(count):
      label = np.zeros((20, 31), np.uint8)
      for class_id in range(1, 6):
        if index % class_id == 0:
          label[3 * class_id : 3 * class_id + 3, : 5 + index] = class_id
      raw_files.jpeg(tmp_path / "raw/images" / folder / f"{index:012d}.jpg", 20, 31, seed=index)
      path = tmp_path / "raw/stuffthingmaps_trainval2017" / folder / f"{index:012d}.png"
      raw_files.png(path, label)
  return tmp_path / "raw"


def prepare(tmp_path, raw_dir="", name="coco_stuff_lt", **fields):
  request = command.Request(
    name=name, data_dir=str(tmp_path / "data"), raw_dir=str(raw_dir), **fields
  )
  return command.prepare(request)


def write_list(tmp_path, indices):
  path = tmp_path / "coco-stuff-lt.txt"
  path.write_text("\n".join(f"{index:012d}.jpg" for index in indices) + "\n\n")
  return str(path)


def names_in(directory, split="train"):
  records = prepared.open_source(directory, split)
  return [records[index]["file_name"] for index in range(len(records))]


def snapshot(directory):
  return {path: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()}


def test_image_list_is_what_is_kept(raw_dir, tmp_path, caplog):
  choice = subset.Choice(image_list=write_list(tmp_path, [7, 0, 4]))
  directory = prepare(tmp_path, raw_dir, choice=choice)
  assert directory == tmp_path / "data" / "coco_stuff_lt" / "1.0.0"
  assert names_in(directory) == [f"{index:012d}.jpg" for index in (0, 4, 7)]
  assert len(names_in(directory, "val")) == 2
  assert (
    prepared.read_metadata(directory) == datasets.find_spec("coco_stuff_lt").class_table.metadata
  )
  whole = tmp_path / "data" / "coco_stuff" / "1.0.0"
  part_records, whole_records = (prepared.open_source(d, "train") for d in (directory, whole))
  part_counts, whole_counts = (prepared.read_pixel_counts(d, "train") for d in (directory, whole))
  for new, old in enumerate((0, 4, 7)):
    assert part_records[new] == whole_records[old]
    np.testing.assert_array_equal(part_counts.row(new), whole_counts.row(old))
  assert "coco_stuff_lt train has 3 images, the published one 40679" in caplog.text
  assert ensure_prepared("coco_stuff_lt", tmp_path / "data") == directory


def test_unknown_names_of_the_list_are_an_error(raw_dir, tmp_path):
  path = write_list(tmp_path, [3, 44, 55])
  with pytest.raises(ValueError) as error:
    prepare(tmp_path, raw_dir, choice=subset.Choice(image_list=path))
  lines = str(error.value).splitlines()
  assert lines[0].startswith(f"2 names of {path} are no images of the training split")
  assert lines[1].strip() == "000000000044.jpg" and "000000000000.jpg" in lines[3]
  assert not (tmp_path / "data" / "coco_stuff_lt").exists()


def test_name_that_stands_twice_is_an_error(raw_dir, tmp_path):
  choice = subset.Choice(image_list=write_list(tmp_path, [3, 4, 3]))
  with pytest.raises(ValueError, match=r"1 names stand more than once.*\n  000000000003\.jpg"):
    prepare(tmp_path, raw_dir, choice=choice)


def test_missing_or_empty_list_is_an_error(raw_dir, tmp_path):
  with pytest.raises(FileNotFoundError, match="--image_list=/nowhere does not exist"):
    prepare(tmp_path, raw_dir, choice=subset.Choice(image_list="/nowhere"))
  with pytest.raises(ValueError, match="is empty"):
    prepare(tmp_path, raw_dir, choice=subset.Choice(image_list=write_list(tmp_path, [])))


def test_sampler_keeps_the_target_number_and_reports(raw_dir, tmp_path):
  directory = prepare(tmp_path, raw_dir, choice=subset.Choice(target_images=6, level="both"))
  counts = prepared.read_pixel_counts(tmp_path / "data" / "coco_stuff" / "1.0.0", "train")
  presence, pixel_share = lt_sampling.class_matrices(counts, 171)
  kept = lt_sampling.greedy_subset(presence, pixel_share, target_images=6, level="both")
  assert names_in(directory) == [f"{index:012d}.jpg" for index in kept]
  note = json.loads((directory / "source.json").read_text())
  report = note["report"]
  stats = class_stats.class_stats(prepared.read_pixel_counts(directory, "train"), 171)
  assert report["num_images"] == [12, 6]
  assert report["images"]["per_class"][0][:6] == [12, 12, 6, 4, 3, 3]
  assert report["images"]["per_class"][1] == stats.images_with_class.tolist()
  assert report["images"]["gini"][1] == class_stats.gini(stats.images_with_class)
  assert report["pixels"]["gini"][1] == class_stats.gini(stats.pixel_share_sum)
  assert report["images"]["official_gini"] == pytest.approx(0.669, abs=1e-3)
  assert report["images"]["comparison"]["official_total"] > 40_679
  assert (stats.images_with_class[:6] > 0).all()  # every class is kept
  text = "\n".join(subset.describe_report(directory))
  difference = np.abs(np.array(report["images"]["official_per_class"]) - stats.images_with_class)
  assert f"sum of differences {difference.sum():.6g} of" in text
  assert f"{report['images']['gini'][1]:.3f} after, 0.669 official; counts per class" in text


def test_too_few_images_for_the_official_number_is_an_error(raw_dir, tmp_path):
  with pytest.raises(ValueError, match="40679 images are to be kept, but there are only 12"):
    prepare(tmp_path, raw_dir)
  # The whole is prepared; what is left to do needs no raw files.
  directory = prepare(tmp_path, choice=subset.Choice(target_images=8))
  assert len(names_in(directory)) == 8


def test_second_run_changes_nothing(raw_dir, tmp_path):
  choice = subset.Choice(target_images=6)
  directory = prepare(tmp_path, raw_dir, choice=choice)
  before = snapshot(directory)
  assert prepare(tmp_path, raw_dir, choice=choice) == directory
  assert prepare(tmp_path) == directory  # says nothing of the choice
  assert snapshot(directory) == before


def test_other_choice_is_an_error(raw_dir, tmp_path):
  prepare(tmp_path, raw_dir, choice=subset.Choice(target_images=6))
  for choice in (
    subset.Choice(target_images=6, seed=1),
    subset.Choice(image_list=write_list(tmp_path, [1, 2])),
  ):
    with pytest.raises(ValueError, match="is prepared, but by .* remove it to prepare it anew"):
      prepare(tmp_path, choice=choice)


def test_half_a_part_is_prepared_anew(raw_dir, tmp_path):
  choice = subset.Choice(target_images=6)
  directory = prepare(tmp_path, raw_dir, choice=choice)
  (directory / "val_pixel_counts.npz").unlink()
  with pytest.raises(FileNotFoundError, match=r"it lacks val_pixel_counts\.npz"):
    ensure_prepared("coco_stuff_lt", tmp_path / "data")
  assert prepare(tmp_path, choice=choice) == directory
  assert len(names_in(directory)) == 6


def test_a_start_leaves_alone_what_another_has_mended_meanwhile(raw_dir, tmp_path, monkeypatch):
  choice = subset.Choice(target_images=6)
  directory = prepare(tmp_path, raw_dir, choice=choice)
  (directory / "val_pixel_counts.npz").unlink()
  prepare_whole = published.prepare_published
  made_by_other = []

  def prepare_slowly(*arguments):
    monkeypatch.undo()
    prepare(tmp_path, choice=choice)  # the other start, from begin to end
    made_by_other.append(os.stat(directory).st_ino)
    return prepare_whole(*arguments)

  monkeypatch.setattr(published, "prepare_published", prepare_slowly)
  assert prepare(tmp_path, choice=choice) == directory
  assert made_by_other == [os.stat(directory).st_ino]


def test_mhp_v2_lt_is_a_part_of_mhp_v2(tmp_path, raw_files):
  for split in ("train", "val"):
    for index in range(3):
      top = tmp_path / "raw" / "LV-MHP-v2"
      raw_files.jpeg(top / f"{split}_img" / f"{index}.jpg", 9, 11)
      raw_files.png(top / f"{split}_seg" / f"{index}.png", np.full((9, 11), index, np.uint8))
  path = tmp_path / "mhpv2-lt.txt"
  path.write_text("2.jpg\n")
  choice = subset.Choice(image_list=str(path))
  directory = prepare(tmp_path, tmp_path / "raw", name="mhp_v2_lt", choice=choice)
  assert names_in(directory) == ["2.jpg"] and len(names_in(directory, "val")) == 3
  metadata = prepared.read_metadata(directory)
  assert (metadata.name, len(metadata.flip_pairs)) == ("mhp_v2_lt", 8)


@pytest.mark.parametrize("name", ["coco_stuff_lt", "mhp_v2_lt"])
def test_parts_have_the_classes_of_the_whole(name):
  part, whole = (
    datasets.find_spec(n).class_table.metadata for n in (name, name.removesuffix("_lt"))
  )
  assert (part.class_names, part.dataset_ids) == (whole.class_names, whole.dataset_ids)
  assert (part.ignore_label, part.flip_pairs) == (whole.ignore_label, whole.flip_pairs)


def test_published_data_set_made_long_tailed(raw_dir, tmp_path):
  choice = subset.Choice(target_images=5)
  fields = {"name": "coco_stuff", "make_long_tailed": True, "choice": choice}
  directory = prepare(tmp_path, raw_dir, **fields)
  data_dir = directory.parents[1]
  assert data_dir.parent == tmp_path / "data" / "long_tailed"
  assert ensure_prepared("coco_stuff", data_dir) == directory
  assert len(names_in(directory)) == 5
  assert prepared.read_metadata(directory).name == "coco_stuff_long_tailed"
  assert len(names_in(ensure_prepared("coco_stuff", tmp_path / "data"))) == NUM_TRAIN
  before = snapshot(directory)
  assert prepare(tmp_path, **fields) == directory
  assert snapshot(directory) == before
  other = prepare(tmp_path, **fields | {"choice": subset.Choice(target_images=5, seed=3)})
  assert other.parents[1] != data_dir


@pytest.fixture
def photos(tmp_path, raw_files):
  """A user's folder of 8 + 1 images; class a in all, b in half of them."""
  root = tmp_path / "My photos"
  for split, count in (("train", 8), ("val", 1)):
    for index in range(count):
      raw_files.jpeg(root / "images" / split / f"{index}.jpg", 12, 16)
      label = np.zeros((12, 16), np.uint8)
      label[: 6 * (index % 2)] = 1
      raw_files.png(root / "annotations" / split / f"{index}.png", label)
  (root / "classes.txt").write_text("a\nb\n")
  return root


def test_folder_made_long_tailed_by_the_command(photos, tmp_path):
  arguments = ["folder", f"--root={photos}", f"--data_dir={tmp_path / 'data'}"]
  arguments += ["--make_long_tailed", "--target_images=5"]
  done = programs.run("-m", "input_pipeline.prepare", *arguments, check=True)
  # 8 images with a and 4 with b are left as 5 and 1: Gini (2 + 1 - 2 * 7 / 6) / 2.
  assert "5 of the 8 training images" in done.stdout
  assert "Gini (images): 0.167 before, 0.333 after" in done.stdout
  (data_dir,) = (tmp_path / "data" / "long_tailed").iterdir()
  assert f"--config.data.dir={data_dir}" in done.stderr
  directory = ensure_prepared("folder", data_dir, str(photos))
  assert len(names_in(directory)) == 5
  # A folder that has changed since does not take its place without a word.
  (photos / "classes.txt").write_text("a\nb\nc\n")
  with pytest.raises(ValueError, match="is a long-tailed part of .* which has changed since"):
    ensure_prepared("folder", data_dir, str(photos))


def test_choice_of_a_data_set_that_is_no_part_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="add --make_long_tailed"):
    prepare(tmp_path, name="ade20k", choice=subset.Choice())
