"""Programs of Python as users start them: each in a process of its own."""

import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]
GOLDEN = REPOSITORY / "tests" / "golden"


def environment(devices: int = 1, **changes: str | None) -> dict[str, str]:
  """Variables of a program: this process's, with other virtual devices and with changes.

  None takes a variable away. As in the tests' own process, compiling fast comes first.
  """
  flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1"
  variables = os.environ | {"XLA_FLAGS": flags} | changes
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
