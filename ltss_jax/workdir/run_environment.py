"""environment.jsonl of a workdir: what each start of a run ran on, one JSON object a line."""

import datetime
import pathlib
import platform
import subprocess
from importlib import metadata
from typing import Any

import jax
from etils import epath

from ltss_jax.workdir import json_lines, paths

_PROJECT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "clu", "numpy", "scipy")


def append(workdir: epath.PathLike, *, step: int, train_images: int, val_images: int) -> None:
  """Adds a line for this start of a run.

  Args:
    workdir: workdir of the run; must exist.
    step: step that training starts from.
    train_images: number of images of the training split.
    val_images: number of images of the validation split.
  """
  line = {"step": step, "train_images": train_images, "val_images": val_images} | describe()
  json_lines.append(paths.environment(workdir), line)


def describe() -> dict[str, Any]:
  """Time, commit, devices and versions of this process; an empty commit where git tells none."""
  return {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "commit": _git("rev-parse", "HEAD"),
    "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    "device": jax.devices()[0].device_kind,
    "num_devices": jax.device_count(),
    "num_processes": jax.process_count(),
    "platform": platform.platform(),
    "python": platform.python_version(),
    "versions": {name: metadata.version(name) for name in _PACKAGES},
  }


def _git(*arguments: str) -> str:
  """Output of a git command in this project; "" where git or the repository is absent."""
  try:
    process = subprocess.run(
      ["git", *arguments], cwd=_PROJECT, capture_output=True, text=True, timeout=10, check=False
    )
  except (OSError, subprocess.TimeoutExpired):
    return ""
  return process.stdout.strip() if process.returncode == 0 else ""
