import os
import pickle

import numpy as np
import pytest

from input_pipeline.ade20k_full import index

NAMES = ["ADE_train_1.jpg", "ADE_val_2.jpg"]
FOLDERS = ["top/images/a", "top/images/bé"]
EXPECTED = list(zip(FOLDERS, NAMES, strict=True))


def write(tmp_path, data):
  path = tmp_path / "index_ade20k.pkl"
  path.write_bytes(data)
  return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [list, np.array, lambda x: np.array(x, object)])
def test_lists_and_arrays_of_every_protocol(tmp_path, protocol, kind):
  content = {
    "filename": kind(NAMES),
    "folder": kind(FOLDERS),
    "objectPresence": np.eye(3),
    "objectIsPart": np.ones((2, 2), bool, order="F"),
    "scene": np.array([["x", None], [3, [1.5]]], object),
    "proportion": [np.float64(0.5), np.int32(3)],
    "objects": ["wall", "sky"],
  }
  path = write(tmp_path, pickle.dumps(content, protocol))
  assert index.read_index(path) == EXPECTED


def test_arrays_of_an_older_numpy(tmp_path):
  data = pickle.dumps({"filename": np.array(NAMES), "folder": np.array(FOLDERS)}, 2)
  assert b"numpy._core" in data
  path = write(tmp_path, data.replace(b"numpy._core", b"numpy.core"))
  assert index.read_index(path) == EXPECTED


def test_big_endian_text(tmp_path):
  content = {"filename": np.array(NAMES, ">U20"), "folder": np.array(FOLDERS, ">U20")}
  assert index.read_index(write(tmp_path, pickle.dumps(content))) == EXPECTED


class Command:
  """What a hostile pickle looks like."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize(
  ("function", "arguments", "name"),
  [
    (os.mkdir, ("DIR",), f"{os.mkdir.__module__}.mkdir"),
    (exec, ("import os; os.mkdir('DIR')",), "builtins.exec"),
    (getattr, ("x", "join"), "builtins.getattr"),
    (np.load, ("x",), "numpy.load"),
  ],
)
@pytest.mark.parametrize("place", ["value", "nested", "array"])
def test_anything_else_is_refused_by_name_and_not_run(tmp_path, function, arguments, name, place):
  made = tmp_path / "made"
  arguments = [x.replace("DIR", str(made)) if isinstance(x, str) else x for x in arguments]
  bomb = Command(function, *arguments)
  value = {"value": bomb, "nested": [{"x": bomb}], "array": np.array([bomb], object)}[place]
  data = pickle.dumps({"filename": NAMES, "folder": FOLDERS, "objects": value}, 4)
  with pytest.raises(ValueError, match=rf"index_ade20k\.pkl cannot be read \(it asks for {name};"):
    index.read_index(write(tmp_path, data))
  assert not made.exists()


def test_functions_of_the_reader_cannot_be_changed(tmp_path):
  # BUILD with attributes upon what numpy.ndarray leads to.
  data = b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00aK\x01s\x86b."
  with pytest.raises(ValueError, match="tries to change a function"):
    index.read_index(write(tmp_path, data))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"filename": NAMES}, "no dict with the key 'folder'"),
    ([NAMES, FOLDERS], "no dict with the key 'folder'"),
    ({"filename": [1, 2], "folder": FOLDERS}, "'filename' is no list of text"),
    ({"filename": np.array([[1]]), "folder": FOLDERS}, "an array of shape"),
    ({"filename": np.array([1j]), "folder": FOLDERS}, "an array of type 'c16'"),
    ({"filename": NAMES, "folder": FOLDERS[:1]}, "1 folders but 2 file names"),
  ],
)
def test_other_content(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    index.read_index(write(tmp_path, pickle.dumps(content)))


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_damaged_file(tmp_path, kept):
  data = pickle.dumps({"filename": NAMES, "folder": FOLDERS})
  with pytest.raises(ValueError, match=r"index_ade20k\.pkl cannot be read"):
    index.read_index(write(tmp_path, data[:kept]))
