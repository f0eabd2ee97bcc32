"""A published data set whose preparation is cut off, fails or runs twice."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.mhp_v2 import layout
from input_pipeline.prepare import ensure_prepared, published

REPOSITORY = pathlib.Path(__file__).parents[3]


@pytest.fixture
def raw_dir(tmp_path, raw_files):
  top = tmp_path / "raw" / "LV-MHP-v2"
  for split in ("train", "val"):
    for index in range(3):
      raw_files.jpeg(top / f"{split}_img" / f"{index}.jpg", 9, 11)
      raw_files.png(top / f"{split}_seg" / f"{index}.png", np.full((9, 11), index, np.uint8))
  return tmp_path / "raw"


def prepare(raw_dir, tmp_path):
  return published.prepare_published("mhp_v2", str(raw_dir), tmp_path / "data")


# The command, which stays at one image, as if its disk were slow.
PREPARE = """
import sys, time
from absl import app
from input_pipeline.prepare import __main__ as command
from input_pipeline.raw import record

def read(path, slow=sys.argv.pop(1), real=record.read_image, **options):
  if path.match(slow):
    time.sleep(100)
  return real(path, **options)

record.read_image = read
app.run(command.main)
"""


def start(raw_dir, tmp_path, slow_image="none"):
  arguments = [slow_image, "mhp_v2", f"--raw_dir={raw_dir}", f"--data_dir={tmp_path / 'data'}"]
  return subprocess.Popen(
    [sys.executable, "-c", PREPARE, *arguments],
    cwd=REPOSITORY,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def test_second_run_changes_nothing_and_needs_no_raw_files(raw_dir, tmp_path):
  directory = prepare(raw_dir, tmp_path)
  before = {path: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()}
  raw_dir.rename(tmp_path / "elsewhere")
  begin = time.perf_counter()
  assert prepare(raw_dir, tmp_path) == directory
  assert time.perf_counter() - begin < 1  # some milliseconds here
  assert published.prepare_published("mhp_v2", "", tmp_path / "data") == directory
  assert {path: path.stat().st_mtime_ns for path in pathlib.Path(directory).iterdir()} == before


def test_preparation_is_deterministic(raw_dir, tmp_path):
  first = prepare(raw_dir, tmp_path)
  second = published.prepare_published("mhp_v2", str(raw_dir), tmp_path / "other")
  for path in pathlib.Path(first).iterdir():
    assert path.read_bytes() == (second / path.name).read_bytes()


def test_killed_preparation_loads_nothing_and_is_made_up_for(raw_dir, tmp_path, caplog):
  process = start(raw_dir, tmp_path, "val_img/2.jpg")
  deadline = time.monotonic() + 30
  while not list((tmp_path / "data").rglob("train_pixel_counts.npz")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  with pytest.raises(FileNotFoundError, match="mhp_v2 is not prepared"):
    ensure_prepared("mhp_v2", tmp_path / "data")
  directory = prepare(raw_dir, tmp_path)
  assert len(prepared.open_source(directory, "train")) == 3
  assert len(prepared.open_source(directory, "val")) == 3
  (leftover,) = (path for path in directory.parent.iterdir() if path != directory)
  assert f"{leftover}: left by a preparation that was cut off" in caplog.text


def test_failed_preparation_leaves_nothing(raw_dir, tmp_path):
  image = raw_dir / "LV-MHP-v2" / "val_img" / "2.jpg"
  data = image.read_bytes()
  image.write_bytes(b"garbage")
  with pytest.raises(ValueError, match=r"1 of 3 val examples.*\n.*val_img/2\.jpg"):
    prepare(raw_dir, tmp_path)
  assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
  image.write_bytes(data)
  assert len(prepared.open_source(prepare(raw_dir, tmp_path), "val")) == 3


def test_damaged_preparation_is_made_anew(raw_dir, tmp_path):
  directory = prepare(raw_dir, tmp_path)
  next(pathlib.Path(directory).glob("*val*array_record*")).unlink()
  with pytest.raises(FileNotFoundError, match="is not complete, it lacks mhp_v2-val.array_record"):
    ensure_prepared("mhp_v2", tmp_path / "data")
  assert prepare(raw_dir, tmp_path) == directory
  assert len(prepared.open_source(directory, "val")) == 3


def test_a_start_leaves_alone_what_another_has_mended_meanwhile(raw_dir, tmp_path, monkeypatch):
  directory = prepare(raw_dir, tmp_path)
  next(pathlib.Path(directory).glob("*val*array_record*")).unlink()
  read_contents = layout.read_contents
  made_by_other = []

  def read_slowly(*arguments):
    monkeypatch.undo()
    prepare(raw_dir, tmp_path)  # the other start, from begin to end
    made_by_other.append(os.stat(directory).st_ino)
    return read_contents(*arguments)

  monkeypatch.setattr(layout, "read_contents", read_slowly)
  assert prepare(raw_dir, tmp_path) == directory
  assert made_by_other == [os.stat(directory).st_ino]


def test_two_processes_at_once_share_one_result(raw_dir, tmp_path):
  processes = [start(raw_dir, tmp_path) for _ in range(2)]
  assert [process.wait() for process in processes] == [0, 0]
  directory = ensure_prepared("mhp_v2", tmp_path / "data")
  assert list(directory.parent.iterdir()) == [directory]
  assert len(prepared.open_source(directory, "train")) == 3
