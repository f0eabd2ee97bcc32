"""Which Python the Makefile takes; nothing is installed here."""

import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(name="dry_run")
def _dry_run(tmp_path):
  """Returns a function that says what make would do in a project whose .venv is up to date."""
  for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
    shutil.copy(REPOSITORY / name, tmp_path)

  def run(*arguments, python):
    """`python` is what that of .venv says of its version."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.write_text(f"#!/bin/sh\necho '{python}'\n")
    interpreter.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    process = subprocess.run(
      ["make", "--dry-run", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return process.stdout

  return run


def test_another_python_makes_the_environment_anew(dry_run):
  here = tuple(sys.version_info[:2])
  named = f"PYTHON={sys.executable}"
  assert f"{sys.executable} -m venv --clear .venv" in dry_run("test", named, python=(3, 1))
  assert "-m venv" not in dry_run("test", named, python=here)
  assert "-m venv" not in dry_run("test", python=(3, 1))  # no Python was asked for


def test_the_newest_releases_have_an_environment_of_their_own(dry_run):
  output = dry_run("test-newest", "NEWEST_PYTHON=python3.99", python=(3, 1))
  assert "python3.99 -m venv .venv-newest" in output
  assert "--upgrade-strategy eager -r requirements-dev.txt" in output
  assert ".venv-newest/bin/python -m pytest" in output and ".venv/bin" not in output
  assert ".venv-newest" in dry_run("clean", python=(3, 1))
