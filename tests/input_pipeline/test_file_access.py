"""What is no readable file is named, and nothing waits for a pipe."""

import os
import pathlib
import shutil
import socket
import tempfile

import pytest
from etils import epath

from input_pipeline import file_access
from tests import programs

LATIN = os.fsdecode(b"caf\xe9.jpg")


pytestmark = pytest.mark.usefixtures("no_waiting")


def bind_socket(path):
  here = os.getcwd()
  os.chdir(path.parent)  # the name of a socket has at most 107 bytes
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(path.name)
  os.chdir(here)


MAKE = {
  "a folder": lambda path: path.mkdir(),
  "a named pipe": os.mkfifo,
  "a socket": bind_socket,
  "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_no_file_is_named_before_it_is_opened(tmp_path, kind):
  path = epath.Path(tmp_path / "x.jpg")
  MAKE[kind](tmp_path / "x.jpg")
  assert file_access.problem(path) == f"it is {kind}, not a file"
  assert file_access.exists(path)
  with pytest.raises(file_access.FileError, match=rf"x\.jpg: it is {kind}, not a file; mend it$"):
    file_access.read_bytes(path, "mend it")


def test_links(tmp_path):
  path = epath.Path(tmp_path / "x.jpg")
  (tmp_path / "x.jpg").symlink_to("nowhere")
  assert file_access.problem(path) == "it is a link to nowhere, which does not exist"
  assert file_access.exists(path)
  (tmp_path / "loop.jpg").symlink_to("loop.jpg")
  assert file_access.problem(path.parent / "loop.jpg") == "it is a link that leads back to itself"
  (tmp_path / "nowhere").write_bytes(b"here")  # now the link leads to a file
  assert file_access.problem(path) == ""
  assert file_access.read_bytes(path) == b"here"


def test_a_file_that_is_gone(tmp_path):
  path = epath.Path(tmp_path / "x.jpg")
  assert file_access.problem(path) == "the file is missing"
  assert not file_access.exists(path)
  with pytest.raises(file_access.FileError, match=r"x\.jpg: the file is missing$"):
    file_access.read_bytes(path)


def test_a_file_that_vanishes_between_the_look_and_the_reading(tmp_path, monkeypatch):
  monkeypatch.setattr(file_access, "problem", lambda path: "")
  with pytest.raises(file_access.FileError, match=r"x\.jpg: the file is missing; mend it$"):
    file_access.read_bytes(epath.Path(tmp_path / "x.jpg"), "mend it")
  (tmp_path / "x.jpg").mkdir()
  with pytest.raises(file_access.FileError, match=r"x\.jpg: it cannot be read \(Is a directory\)"):
    file_access.read_bytes(epath.Path(tmp_path / "x.jpg"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can become another user")
def test_files_and_folders_that_a_user_may_not_read():
  """The administrator may read all, so a process of nobody's looks."""
  folder = pathlib.Path(tempfile.mkdtemp())
  try:
    folder.chmod(0o755)
    (folder / "x.jpg").write_bytes(b"mine")
    (folder / "x.jpg").chmod(0o600)
    (folder / "locked").mkdir(mode=0o700)
    command = (
      "import os; from etils import epath; from input_pipeline import file_access;"
      "os.setgid(65534); os.setuid(65534);"
      f"folder = epath.Path({str(folder)!r});"
      "print(file_access.problem(folder / 'x.jpg'), file_access.problem(folder / 'locked' / 'y'),"
      " sep=chr(10));"
      "list(file_access.walk(folder, ('.png',)))"
    )
    done = programs.run("-c", command)
  finally:
    shutil.rmtree(folder)
  assert done.stdout.splitlines() == ["you may not read it"] * 2
  assert f"FileError: {folder}/locked: you may not read it" in done.stderr


def test_names_in_messages_are_printable(tmp_path):
  assert file_access.printable(f"a/{LATIN}") == "a/caf\\xe9.jpg"
  assert file_access.printable("Straße\n\x1b[31m.jpg") == "Straße\\n\\x1b[31m.jpg"
  assert file_access.printable(epath.Path(tmp_path / "x y.jpg")) == str(tmp_path / "x y.jpg")
  file_access.check_name("Straße.jpg")
  with pytest.raises(file_access.FileError, match=r"caf\\xe9\.jpg: .* no UTF-8; rename it"):
    file_access.check_name(LATIN)


def test_lines_of_text(tmp_path):
  path = epath.Path(tmp_path / "names.txt")
  path.write_bytes("\ufeff a b \r\n\r\nStraße\n\n".encode())
  assert file_access.read_lines(path) == ["a b", "", "Straße"]
  path.write_bytes(b"")
  assert file_access.read_lines(path) == []
  path.write_bytes(b"caf\xe9")
  with pytest.raises(file_access.FileError, match=r"names\.txt is not UTF-8 text .*save it as UTF"):
    file_access.read_lines(path)


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("")


def walk(folder):
  folder = epath.Path(folder)
  return [str(path.relative_to(folder)) for path in file_access.walk(folder, (".jpg", ".png"))]


def test_folders_are_searched_to_any_depth_without_what_is_hidden(tmp_path):
  touch(tmp_path, "b.JPG", "a.png", "notes.txt", ".hidden.jpg", ".hidden/x.jpg", "a/x/y.jpg")
  touch(tmp_path, "2024.01.05/z.jpg")
  os.mkfifo(tmp_path / "pipe.jpg")
  (tmp_path / "album.jpg").mkdir()
  touch(tmp_path, "album.jpg/inside.jpg")  # whose folder is what will be named
  assert walk(tmp_path) == [
    *("2024.01.05/z.jpg", "a/x/y.jpg", "a.png", "album.jpg", "b.JPG", "pipe.jpg"),
  ]


def test_linked_folders_are_searched_and_rings_of_them_named(tmp_path):
  touch(tmp_path, "in/x.jpg", "elsewhere/deep/y.jpg")
  (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "in" / "nowhere").symlink_to("none")
  (tmp_path / "in" / "itself").symlink_to("itself")
  assert walk(tmp_path / "in") == ["linked/deep/y.jpg", "x.jpg"]
  (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "in")
  with pytest.raises(
    file_access.FileError, match=r"deep/up: it is a link to a folder that it lies"
  ):
    walk(tmp_path / "in")
