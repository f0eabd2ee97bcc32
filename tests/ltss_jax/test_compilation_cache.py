"""The folder of compiled programs, in processes that start one after another."""

import pytest

from tests import programs

PROGRAM = """
import sys, jax, numpy as np
from absl import logging
from ltss_jax import compilation_cache

hits = []
jax.monitoring.register_event_listener(
  lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
if len(sys.argv) > 2:
  compilation_cache.MAX_BYTES = int(sys.argv[2])
compilation_cache.enable(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for size in (5, 6, 7):
  print(float(jax.jit(lambda x: jax.numpy.sort(x) @ x)(np.arange(size, dtype=np.float32))), end=" ")
print(len(hits))
"""
SUMS = "30.0 55.0 91.0"


@pytest.fixture
def start(tmp_path):
  """Runs the program with a setting; returns what it printed and logged."""

  def start(setting, *max_bytes, **variables):
    env = programs.environment(
      JAX_COMPILATION_CACHE_DIR=None, XDG_CACHE_HOME=str(tmp_path / "user"), HOME=str(tmp_path)
    )
    done = programs.run("-c", PROGRAM, setting, *max_bytes, env=env | variables, check=True)
    return done.stdout.strip(), done.stderr

  return start


def programs_in(folder):
  return sorted(path for path in folder.rglob("*-cache") if "lambda" in path.name)


def test_the_second_start_reads_what_the_first_compiled(start, tmp_path):
  printed, logged = start("auto")
  assert printed == f"{SUMS} 0"
  (folder,) = (tmp_path / "user" / "ltss_jax" / "compiled").iterdir()
  assert f"Compiled programs are kept in {folder}, at most 2 GiB" in logged
  assert len(programs_in(folder)) == 3
  assert folder.stat().st_mode & 0o077 == 0  # Others can neither write nor read.
  # A cut-off file is compiled again, with a warning.
  cut = programs_in(folder)[0]
  cut.write_bytes(cut.read_bytes()[:100])
  printed, logged = start("auto")
  assert printed.startswith(SUMS) and int(printed.split()[-1]) >= 2
  assert "Error reading persistent compilation cache entry" in logged


def test_an_empty_setting_keeps_nothing(start, tmp_path):
  printed, logged = start("")
  assert printed == f"{SUMS} 0" and "Compiled programs are not kept" in logged
  start("", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
  assert not list(tmp_path.iterdir())


def test_a_folder_of_the_environment_stays(start, tmp_path):
  _, logged = start("auto", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
  assert f"Compiled programs are kept in {tmp_path / 'mine'}\n" in logged
  assert len(programs_in(tmp_path)) == 3 and not (tmp_path / "user").exists()


def test_a_folder_that_was_not_bounded_is_bounded_and_goes_on(start, tmp_path):
  """JAX itself writes nothing into a folder with a program without a date (jax 0.10.2)."""
  folder = tmp_path / "mine"
  start("auto", JAX_COMPILATION_CACHE_DIR=str(folder))
  before = programs_in(folder)
  assert len(before) == 3 and not list(folder.glob("*-atime"))
  before[0].rename(folder / "not_run_again-cache")
  printed, logged = start(str(folder))
  assert printed == f"{SUMS} 2" and "Error" not in logged
  assert len(programs_in(folder)) == 3
  # One comes into half of the room: others have to go.
  size = sum(path.stat().st_size for path in folder.glob("*-cache"))
  before[0].unlink()
  start(str(folder), str(size // 2))
  assert 0 < sum(path.stat().st_size for path in folder.glob("*-cache")) <= size // 2


def test_a_folder_that_cannot_be_made_stops_nothing(start, tmp_path):
  (tmp_path / "file").write_text("")
  printed, logged = start(str(tmp_path / "file" / "folder"))
  assert printed == f"{SUMS} 0" and "Compiled programs are not kept: " in logged
