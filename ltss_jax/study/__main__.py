"""Trains and evaluates methods over several seeds and compares them: see docs/study.md.

python -m ltss_jax.study --config=configs/shapes_lt.py --methods=baseline,rfs,rfs+copy_paste \
  --seeds=0,1,2
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from configs import flags as config_parsing
from ltss_jax import console
from ltss_jax.study import method_figures, plan, runs, study_files, table


def _define_flags() -> None:
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file and its variants but method, FILE[:key=value,...].",
    lock_config=True,
  )
  flags.DEFINE_string("methods", None, "Comma-separated methods: baseline,rfs:3,rfs+copy_paste.")
  flags.DEFINE_string("seeds", None, "Comma-separated seeds of every method; default 0,1,2.")
  flags.DEFINE_string("workdir", None, "Local folder; default runs/study/<config and variants>.")
  flags.DEFINE_bool("report_only", False, "Run nothing; report on what is there.")
  flags.mark_flag_as_required("config")


def report(folder: study_files.Folder) -> str:
  """Writes table.md and the figures from all the results that are there.

  Args:
    folder: folder of the study.

  Returns:
    The text of table.md.

  Raises:
    ValueError: no run has finished yet, or a result is damaged.
  """
  study = folder.load()
  if not study:
    raise ValueError(f"{folder.path} holds no finished run yet, so there is nothing to report")
  text = table.markdown(study, plan.BASELINE)
  path = folder.path / "table.md"
  path.write_text(text, encoding="utf-8")
  written = [path, *method_figures.save(study, folder.path, plan.BASELINE)]
  logging.info("Written: %s", ", ".join(map(str, written)))
  return text


def _train(folder: study_files.Folder, config: str, overrides: Mapping[str, Any]) -> int:
  """Runs the study that the flags describe; returns the exit code."""
  values = flags.FLAGS
  if values.methods is None:
    raise ValueError("give --methods, as in --methods=baseline,rfs+copy_paste, or --report_only")
  seeds = None if values.seeds is None else plan.parse_seeds(values.seeds)
  methods = plan.parse_methods(values.methods, seeds)
  plan.check_configs(config, overrides, list(methods))
  if plan.BASELINE not in methods:
    logging.warning("--methods names no %s, which methods are compared with", plan.BASELINE)
  folder.claim(values.config)
  return runs.Runner(folder, config, overrides)(plan.schedule(methods))


def main(argv: list[str]) -> int:
  """Runs and reports; returns the exit code."""
  del argv
  console.setup_logging()
  values = flags.FLAGS
  with console.one_message_per_error():
    config = config_parsing.config_argument()
    name = pathlib.Path(console.default_workdir(config)).name
    folder = study_files.Folder(values.workdir or f"runs/study/{name}")
    overrides = config_flags.get_override_values(values["config"])
    code = 0 if values.report_only else _train(folder, config, overrides)
    if code == 0 or folder.load():  # what is there, also after a failure
      print(report(folder))
  return code


if __name__ == "__main__":
  _define_flags()
  sys.exit(app.run(main, flags_parser=config_parsing.parse_flags))
