"""What README and docs print: links lead somewhere, commands run.

A command that needs what a test cannot have says so in a comment: "# needs ADE20K", "# needs GPUs".
Every other one is run by the slow test below; the quick ones check that flags are accepted.
"""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import programs
from tests.programs import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
# Modules whose flags are ours to check; of others the module has to exist.
_PARSE_MAIN = """
import sys
from absl import flags
import main
from configs import flags as config_parsing
config_parsing.parse_flags(sys.argv)
"""


def commented_lines(page: pathlib.Path) -> list[tuple[str, str]]:
  """Lines of the page's shell blocks, continued ones joined, each with its comment."""
  blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").split("\n")
  parts = [line.partition(" # ") for line in lines]
  return [(" ".join(command.split()), comment.strip()) for command, _, comment in parts]


def commands(page: pathlib.Path) -> list[str]:
  return [command for command, _ in commented_lines(page)]


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
  programs.run("-c", _PARSE_MAIN, *arguments[1:], check=True)


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


# Pages whose commands make what those of the others use.
_FIRST = [
  REPOSITORY / name
  for name in ("README.md", "docs/data.md", "docs/training.md", "docs/getting_started.md")
]
# Two steps instead of hundreds, read by threads.
_SHORT = ["--config.train.steps=2", "--config.data.num_workers=0"]


def runnable(page: pathlib.Path) -> list[str]:
  """Commands of the page that need nothing that a test cannot have."""
  return [
    command
    for command, comment in commented_lines(page)
    if re.match(r"python (main\.py|-m (ltss_jax|input_pipeline)\.)", command)
    and not comment.startswith("needs ")
    and "[" not in command.replace("'[", "")  # the pattern of all commands in the README
  ]


def draw_folder(root: pathlib.Path, rng: np.random.Generator):
  """A data set of one's own: 8 + 2 noisy images of 96 x 128, the left half another class."""
  for split, count in (("train", 8), ("val", 2)):
    for name in ("images", "annotations"):
      (root / name / split).mkdir(parents=True)
    for index in range(count):
      image = rng.integers(0, 256, (96, 128, 3), np.uint8)
      label = np.full((96, 128), index % 3, np.uint8)
      label[:, :64] = 0
      Image.fromarray(image).save(root / "images" / split / f"{index}.jpg")
      Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
  (root / "classes.txt").write_text("ground\nbush\nbird\n")


def shortened(command: str, folder: pathlib.Path) -> list[str]:
  """The command with placeholders filled in, in as few steps and seeds as show that it works."""
  found = sorted(folder.glob("data/long_tailed/*"))
  for name, value in {
    "=ROOT": "=mydata",
    "KEY": found[0].name if found else "KEY",
    "--target_images=1000": "--target_images=6",
  }.items():
    command = command.replace(name, value)
  command = re.sub(r":[0-9](?=,|\s|$)", ":1", command)
  arguments = shlex.split(command)[1:]
  trains = arguments[0] == "main.py" and "--mode" not in command
  return arguments + (_SHORT if trains or "ltss_jax.study" in command else [])


@pytest.mark.slow
def test_commands_run(tmp_path):
  """Every printed command of this project that needs nothing special, in one folder, in order."""
  for name in ("main.py", "configs", "input_pipeline", "kernels", "ltss_jax"):
    (tmp_path / name).symlink_to(REPOSITORY / name)
  rng = np.random.default_rng(0)
  draw_folder(tmp_path / "mydata", rng)
  (tmp_path / "FOLDER").mkdir()
  Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(tmp_path / "FOLDER" / "a.jpg")
  done = set()
  for page in [*_FIRST, *(page for page in PAGES if page not in _FIRST)]:
    for command in runnable(page):
      arguments = shortened(command, tmp_path)
      if tuple(arguments) in done:
        continue
      done.add(tuple(arguments))
      run = programs.run(*arguments, cwd=tmp_path)
      assert run.returncode == 0, f"{page.name}: {command}\n{run.stderr[-3000:]}"
      if command.endswith("--workdir=runs/demo"):  # the other runs that the report compares
        for name in ("b", "c"):
          shutil.copytree(tmp_path / "runs/demo", tmp_path / "runs" / name, dirs_exist_ok=True)
  assert len(done) > 15
