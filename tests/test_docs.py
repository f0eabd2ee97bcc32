"""What README and docs print: links lead somewhere, commands are accepted by the flags' parsers."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
# Modules whose flags are ours to check; of others the module has to exist.
_PARSE_MAIN = """
import sys
from absl import flags
import main
from configs import flags as config_parsing
config_parsing.parse_flags(sys.argv)
"""


def commands(page: pathlib.Path) -> list[str]:
  """Lines of the page's shell blocks, continued ones joined."""
  blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").split("\n")
  return [line.split(" # ")[0].strip() for line in lines]


def starting_with(text: str) -> list[str]:
  return sorted({line for page in PAGES for line in commands(page) if line.startswith(text)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
  text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
  targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
  local = [target for target in targets if target and "://" not in target]
  missing = [target for target in local if not (page.parent / target).exists()]
  assert not missing


def is_complete(command: str) -> bool:
  """Whether it is no pattern such as --config=... or [--workdir=DIR]."""
  return "..." not in command and "[" not in command.replace("'[", "") and "--config" in command


MAIN_COMMANDS = [line for line in starting_with("python main.py") if is_complete(line)]


def test_there_are_commands_to_check():
  assert len(MAIN_COMMANDS) > 15


@pytest.mark.parametrize("command", MAIN_COMMANDS)
def test_flags_of_main_are_accepted(command):
  arguments = shlex.split(command.replace("configs/NAME", "configs/ade20k"))[1:]
  done = subprocess.run(
    [sys.executable, "-c", _PARSE_MAIN, *arguments[1:]],
    cwd=REPOSITORY,
    env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_modules_exist():
  lines = starting_with("python -m ")
  assert lines
  for line in lines:
    name = line.split()[2]
    if name.split(".")[0] in ("ltss_jax", "input_pipeline", "kernels", "benchmarks"):
      path = REPOSITORY / name.replace(".", "/")
      assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line


def test_make_targets_exist():
  makefile = (REPOSITORY / "Makefile").read_text()
  targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
  for page in PAGES:
    named = set(re.findall(r"`make ([a-z][\w-]*)", page.read_text()))
    assert named <= targets, page
  assert {line.split()[1] for line in starting_with("make ")} <= targets
