import numpy as np
import pytest
from PIL import Image

from input_pipeline import datasets, prepare, prepared


def make_folder(root):
  """A valid folder data set of two images."""
  for split in ("train", "val"):
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations" / split).mkdir(parents=True)
    label = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) % 2)
    label.save(root / "images" / split / "x.png")
    label.save(root / "annotations" / split / "x.png")
  (root / "classes.txt").write_text("a\nb\n")
  return root


def test_folder_is_prepared_on_first_use(tmp_path):
  root = make_folder(tmp_path / "root")
  directory = prepare.ensure_prepared("folder", tmp_path / "data", root=str(root))
  assert prepared.read_metadata(directory).class_names == ("a", "b")
  assert len(prepared.open_source(directory, "train")) == 1


def test_folder_needs_a_root(tmp_path):
  with pytest.raises(ValueError, match=r"needs its root.*--config\.data\.root=DIR"):
    prepare.ensure_prepared("folder", tmp_path)


def test_other_data_sets_take_no_root(tmp_path):
  with pytest.raises(ValueError, match="'mhp_v2' takes no root, got '/x'"):
    prepare.ensure_prepared("mhp_v2", tmp_path, root="/x")


def test_wrong_name_suggests_nearest(tmp_path):
  with pytest.raises(ValueError, match="no data set 'shape_lt'; did you mean 'shapes_lt'"):
    prepare.ensure_prepared("shape_lt", tmp_path)


@pytest.mark.parametrize("name", datasets.PUBLISHED)
def test_published_data_set_that_is_absent(tmp_path, name):
  with pytest.raises(FileNotFoundError) as error:
    prepare.ensure_prepared(name, tmp_path)
  message = str(error.value)
  assert f"{tmp_path}/{name}/<version>/" in message
  assert f"`python -m input_pipeline.prepare {name} --raw_dir=DIR --data_dir={tmp_path}`" in message
  assert "docs/data.md" in message and "DIR the directory that holds " in message


def test_published_data_set_that_is_there(tmp_path):
  made = prepare.ensure_prepared("folder", tmp_path / "x", str(make_folder(tmp_path / "root")))
  for version in ("1.0.0", "1.9.0", "1.10.0"):
    directory = tmp_path / "data" / "ade20k" / version
    directory.mkdir(parents=True)
    for path in made.iterdir():
      path.copy(directory / path.name)
  (tmp_path / "data" / "ade20k" / "incomplete.ABCDEF_2.0.0").mkdir()
  assert prepare.ensure_prepared("ade20k", tmp_path / "data") == directory
  for version in ("1.0.0", "1.9.0", "1.10.0"):
    (tmp_path / "data" / "ade20k" / version / "classes.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"1\.10\.0 is not complete, it lacks classes\.json"):
    prepare.ensure_prepared("ade20k", tmp_path / "data")
