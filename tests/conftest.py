"""Settings that have to stand before the libraries are imported."""

import os
import shutil
import signal
import tempfile

from tests import programs

# Tests run on the CPU, whatever the machine has; set the variable to test on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Four virtual devices, for what must not depend on their number.
os.environ.setdefault("XLA_FLAGS", programs.xla_flags(4))
# Paths such as gs:// without TensorFlow, where it is installed, too.
os.environ.setdefault("EPATH_USE_TF", "false")

# A test process and the programs that it starts compile the same thing once. Test processes share
# nothing: JAX writes and reads these files without a lock.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import hypothesis
import numpy as np
import pytest
from absl import flags

# Worker processes of the input pipeline read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()

# The same examples on every run; no deadline, as a first call may compile or import.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


def pytest_unconfigure():
  shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def no_waiting():
  """Opening a pipe would wait for ever: a TimeoutError ends the test."""

  def stop(*_):
    raise TimeoutError("waited for a minute")

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(60)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def traced_steps():
  """Returns a function of a workdir: the steps in each of its traces, as xprof reads them."""
  import jax

  def traced_steps(workdir):
    traces = []
    for path in sorted((workdir / "profile").glob("plugins/profile/*/*.xplane.pb")):
      planes = jax.profiler.ProfileData.from_file(str(path)).planes
      events = [event for plane in planes for line in plane.lines for event in line.events]
      traces.append([dict(event.stats)["step_num"] for event in events if event.name == "train"])
    return traces

  return traced_steps


@pytest.fixture(scope="session")
def damaged():
  """Returns a function of a file's bytes: 25 copies with one wrong bit or byte, 5 cut off."""

  def damaged(data):
    rng = np.random.default_rng(0)
    # Record files are padded with zeros that nobody reads.
    places = np.flatnonzero(np.frombuffer(data, np.uint8))
    for i, place in enumerate(rng.choice(places, 25)):
      change = 1 << int(rng.integers(8)) if i % 2 else int(rng.integers(1, 256))
      yield data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    for length in rng.integers(0, len(data), 5):
      yield data[:length]

  return damaged
