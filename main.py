"""Trains, evaluates and applies models of long-tailed semantic segmentation: see README.md.

python main.py --config=configs/shapes_lt.py --workdir=runs/demo
"""

from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from configs import flags as config_parsing

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file and its variants, FILE[:key=value,...].", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run (local or gs://); default runs/<config and variants>."
)
_MODES = ["train", "evaluate", "predict", "export", "report"]
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  None,
  "evaluate, predict, export: folder of converted weights instead of the run's own.",
)
_INPUT = flags.DEFINE_string("input", None, "predict: folder of images, one image, or a pattern.")
_OUTPUT = flags.DEFINE_string(
  "output", None, "predict, export: folder of the results; report: the HTML file."
)
_RUNS = flags.DEFINE_list("runs", [], "report: folders of other runs to compare with.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the whole job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
flags.mark_flag_as_required("config")


# Flags that only some modes take.
_MODES_OF = {
  "checkpoint": ("evaluate", "predict", "export"),
  "input": ("predict",),
  "output": ("predict", "export", "report"),
  "runs": ("report",),
}
_NEEDED = {"predict": ("input", "output"), "export": ("output",)}


@flags.multi_flags_validator(["mode", *_MODES_OF])
def _check_mode(values: dict[str, str | list[str] | None]) -> bool:
  mode = values["mode"]
  if mode == "train" and values["checkpoint"]:
    raise flags.ValidationError(
      "training starts from the weights of --config.init.checkpoint=DIR; --checkpoint is for"
      " --mode=evaluate, predict and export"
    )
  for name, modes in _MODES_OF.items():
    if values[name] and mode not in modes:
      of = ", ".join(modes[:-1]) + (" and " if modes[1:] else "") + modes[-1]
      raise flags.ValidationError(f"--{name} is for --mode={of}, not for {mode}")
  missing = [name for name in _NEEDED.get(mode, ()) if not values[name]]
  if missing:
    needed = " and ".join(f"--{name}=..." for name in _NEEDED[mode])
    raise flags.ValidationError(f"--mode={mode} needs {needed}; --{missing[0]} is missing")
  return True


def main(argv: list[str]) -> None:
  """Runs what --mode says; prints the table of results."""
  del argv
  # Imported here, so that a wrong flag is reported at once and loader processes never import them.
  from ltss_jax import compilation_cache, console, mesh

  console.setup_logging()
  with console.one_message_per_error():
    mesh.initialize_distributed(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _MODE.value != "report":
      compilation_cache.enable(_CONFIG.value.compilation_cache)
    file_and_variants = config_flags.get_config_filename(flags.FLAGS["config"])
    _run(_CONFIG.value, _WORKDIR.value or console.default_workdir(file_and_variants))


def _run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Each mode imports what it needs."""
  weights = _CHECKPOINT.value
  if _MODE.value == "predict":
    from ltss_jax.prediction import predict

    predict.predict(config, workdir, source=_INPUT.value, output=_OUTPUT.value, weights=weights)
  elif _MODE.value == "export":
    import jax

    from ltss_jax.prediction import export

    if jax.process_count() > 1:
      raise ValueError(
        f"--mode=export runs in one process, and this job has {jax.process_count()}: start it once,"
        " by itself"
      )
    export.export(config, workdir, output=_OUTPUT.value, weights=weights)
  elif _MODE.value == "report":
    import jax

    from ltss_jax import report

    if jax.process_index() == 0:
      path = report.report(workdir, tuple(_RUNS.value), _OUTPUT.value)
      logging.info("The report is %s", path)
  elif _MODE.value == "evaluate":
    from ltss_jax.evaluation import evaluator

    _show(evaluator.evaluate_checkpoint(config, workdir, weights), workdir)
  else:
    from ltss_jax.training import loop

    _show(loop.train(config, workdir), workdir)


def _show(result: dict[str, Any] | None, workdir: str) -> None:
  """Prints the table of results; a training that was told to stop has none."""
  from ltss_jax.results import evaluation_result

  if result is not None:
    print(evaluation_result.format_table(result))
    logging.info("Everything about this run is in %s", workdir)


if __name__ == "__main__":
  app.run(main, flags_parser=config_parsing.parse_flags)
