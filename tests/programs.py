"""Programs of Python as users start them: each in a process of its own."""

import functools
import importlib.util
import mmap
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"


@functools.cache
def _is_known(flag: str) -> bool:
  """Whether the installed XLA has a flag: programs end at one that it does not know."""
  library = pathlib.Path(importlib.util.find_spec("jaxlib").origin).with_name("libjax_common.so")
  if not library.exists():
    return False
  with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
    return contents.find(flag.encode()) >= 0


def xla_flags(devices: int) -> str:
  """Flags of XLA for tests, where most programs run once: compiling fast comes first.

  Without its newer emitters of fused loops, a training step compiles in two thirds of the time.

  Args:
    devices: number of virtual devices.
  """
  flags = [f"xla_force_host_platform_device_count={devices}", "xla_backend_optimization_level=1"]
  if _is_known("xla_cpu_use_fusion_emitters"):
    flags.append("xla_cpu_use_fusion_emitters=false")
  return " ".join(f"--{flag}" for flag in flags)


def environment(devices: int = 1, **changes: str | None) -> dict[str, str]:
  """Variables of a program: this process's, with other virtual devices and with changes.

  None takes a variable away.
  """
  variables = os.environ | {"XLA_FLAGS": xla_flags(devices)} | changes
  return {name: value for name, value in variables.items() if value is not None}


def run(
  *arguments, cwd=REPOSITORY, env=None, timeout=None, check=False
) -> subprocess.CompletedProcess:
  """Runs Python with arguments to its end.

  Args:
    arguments: a script, or "-m" and a module, or "-c" and a program; then what it is given.
    cwd: working directory.
    env: variables; those of `environment()` if None.
    timeout: longest time, in seconds.
    check: whether an exit code other than 0 fails the test.

  Returns:
    the process that has ended, with stdout and stderr as text.
  """
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env=env or environment(),
    capture_output=True,
    text=True,
    errors="backslashreplace",
    timeout=timeout,
    check=False,
  )
  assert not check or done.returncode == 0, done.stderr
  return done


def start(*arguments, cwd=REPOSITORY, env=None, stderr=subprocess.PIPE) -> subprocess.Popen:
  """Starts what `run` runs; stderr=subprocess.STDOUT puts both outputs into one."""
  return subprocess.Popen(
    [sys.executable, *arguments],
    cwd=cwd,
    env=env or environment(),
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
  )
