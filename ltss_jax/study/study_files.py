"""The files of a study: one JSON per finished run, the log of attempts, the guard of its config."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections

from ltss_jax.results import evaluated_data, evaluation_result
from ltss_jax.study import plan
from ltss_jax.workdir import atomic_file, json_lines, paths, run_config

_REMEDY = "remove it, and the run is collected anew"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class Folder:
  """The paths of a study and what lies there.

  runs/<method>/<seed>/  workdir of `main.py`
  logs/<method>_<seed>.txt  everything that the run printed
  results/<method>_<seed>.json  once it has finished
  attempts.jsonl  a line for each start of a run
  config.json  of the study, without method and seed
  """

  def __init__(self, directory: str | os.PathLike):
    self.path = pathlib.Path(directory).expanduser()
    self._attempts = self.path / "attempts.jsonl"

  def workdir(self, run: plan.Run) -> pathlib.Path:
    """The workdir of `main.py`."""
    return self.path / "runs" / run.method / str(run.seed)

  def log(self, run: plan.Run) -> pathlib.Path:
    """The file of what the run prints, over all of its attempts."""
    return self.path / "logs" / f"{run.name}.txt"

  def result(self, run: plan.Run) -> pathlib.Path:
    """The JSON file that says that the run has finished."""
    return self.path / "results" / f"{run.name}.json"

  def claim(self, config: ml_collections.ConfigDict) -> None:
    """Makes the folder that of one config, or compares with the one that it is of.

    Args:
      config: config of the baseline, with the command line's values.

    Raises:
      ValueError: it holds a study of another config; names the fields.
    """
    if (self.path / run_config.FILE_NAME).exists():
      run_config.check(self.path, config)
      self._check_scoring(config)
      return
    self.path.mkdir(parents=True, exist_ok=True)
    run_config.write(self.path, config)

  def _check_scoring(self, config: ml_collections.ConfigDict) -> None:
    """Evaluation is free to change in a resumed run, but not among results that are compared."""
    saved = run_config.scoring_fields(run_config.read(self.path)["eval"])
    now = run_config.scoring_fields(config.eval.to_dict())
    for field in sorted(saved.keys() | now.keys()):
      there, here = saved.get(field, "absent"), now.get(field, "absent")
      if there != here:
        raise ValueError(
          f"{self.path} holds a study with config.eval.{field}={there!r}, and now it is {here!r};"
          " use another --workdir, or that value"
        )

  def add_attempt(self, run: plan.Run, attempt: Mapping[str, Any]) -> None:
    """Logs one start of a run, however it ended."""
    json_lines.append(self._attempts, {"method": run.method, "seed": run.seed, **attempt})

  def _attempts_of(self, run: plan.Run) -> list[dict[str, Any]]:
    attempts = json_lines.read(self._attempts)
    return [a for a in attempts if (a.pop("method"), a.pop("seed")) == (run.method, run.seed)]

  def collect(self, run: plan.Run, config: str, overrides: Mapping[str, Any]) -> bool:
    """Writes the JSON of a run whose last step has been evaluated.

    Args:
      run: the run.
      config: FILE:variants that it was started with.
      overrides: field -> value from the command line.

    Returns:
      Whether it has finished.

    Raises:
      ValueError: a file that it or an attempt has left is damaged, or the result is of other data
        than the run; names it.
    """
    if self.result(run).exists():
      return True
    resolved = run_config.read(self.workdir(run))
    if resolved is None:
      return False
    steps = resolved["train"]["steps"]
    path = paths.result(self.workdir(run), steps)
    if not path.exists():
      return False
    result = atomic_file.read_json(path)
    if evaluated_data.is_of_other_data(self.workdir(run), steps, result):
      raise ValueError(
        f"{path} is of other data ({result['data']['name']}) than the run; remove it, and evaluate"
        " the run's own with --mode=evaluate"
      )
    attempts = self._attempts_of(run)
    last = attempts[-1] if attempts else {}
    content = {
      "method": run.method,
      "seed": run.seed,
      "config": config,
      "overrides": dict(overrides),
      "steps": steps,
      "commit": last.get("commit"),
      "machine": last.get("machine"),
      "seconds": round(sum(attempt["seconds"] for attempt in attempts), 1),
      "attempts": attempts,
      "record": result,
    }
    evaluation_result.write_result(content, self.result(run))
    return True

  def load(self) -> dict[str, dict[int, dict[str, Any]]]:
    """Reads all finished runs, also those of earlier commands.

    Returns:
      Method -> seed -> content of its JSON; the baseline first, single methods before
      combinations, seeds ascending.

    Raises:
      ValueError: a file is damaged, or two are of different data; names them.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    first = None  # result that says what data it is of; those of older versions do not
    for path in sorted((self.path / "results").glob("*.json")):
      try:
        content = atomic_file.read_json(path, _REMEDY)
        found.setdefault(content["method"], {})[content["seed"]] = content
        data = content["record"].get("data")
      except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of a study ({error!r}); {_REMEDY}") from error
      if data and first:
        _check_same_data(path, data, *first)
      first = first or (data and (path, data))
    return {
      method: dict(sorted(found[method].items())) for method in sorted(found, key=plan.sort_key)
    }


def _check_same_data(
  path: pathlib.Path, data: dict[str, Any], first_path: pathlib.Path, first: dict[str, Any]
) -> None:
  """Compares the data that two results are of."""
  different = evaluated_data.differences(first, data)
  if different:
    raise ValueError(
      f"{path} and {first_path} are of different data ({', '.join(different)}) and cannot be"
      " compared; remove one of them and its workdir below runs/, and run it again on the data of"
      " the other"
    )


def commit() -> str | None:
  """Returns the hash of the code, "+changes" behind it where files differ; None without git."""
  try:
    head = _git("rev-parse", "HEAD")
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
  except (OSError, subprocess.CalledProcessError):
    return None


def _git(*arguments: str) -> str:
  command = ["git", "-C", str(REPOSITORY), *arguments]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> dict[str, Any]:
  """Describes what the runs run on: devices as JAX sees them, processor, cores, versions.

  JAX is asked in a process of its own: in this one it would keep the accelerator from the runs.
  """
  code = "import jax; d = jax.devices(); print(len(d), 'x', d[0].device_kind)"
  asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  return {
    "devices": asked.stdout.strip() or None,
    "processor": _processor(),
    "cores": os.cpu_count(),
    "system": platform.platform(),
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
  }


def _processor() -> str:
  """Linux has the name in a file, other systems in `platform`."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    for line in cpuinfo.read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()
