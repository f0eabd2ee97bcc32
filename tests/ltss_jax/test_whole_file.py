"""Files that appear whole or not at all."""

import numpy as np
import pytest

from ltss_jax import whole_file


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_text_replaces_a_file_and_makes_its_folder(tmp_path):
  path = tmp_path / "new" / "a.txt"
  for text in ("first", "zweite Fassung, größer"):
    whole_file.write_text(path, text)
    assert path.read_bytes() == text.encode() and names(path.parent) == ["a.txt"]


def test_a_file_appears_at_the_end_of_its_block(tmp_path):
  path = tmp_path / "counts.npz"
  path.write_text("before")
  with whole_file.replacing(path) as file:
    np.savez(file, counts=np.arange(3))
    assert path.read_text() == "before"
  with np.load(path) as arrays:
    assert arrays["counts"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
  path = tmp_path / "a.txt"
  path.write_text("before")
  with pytest.raises(error), whole_file.replacing(path) as file:
    file.write(b"half")
    raise error
  assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_a_directory_in_its_place_leaves_nothing_behind(tmp_path):
  (tmp_path / "a.txt").mkdir()
  with pytest.raises(OSError):
    whole_file.write_text(tmp_path / "a.txt", "text")
  assert names(tmp_path) == ["a.txt"]
