"""Trains, evaluates and applies models of long-tailed semantic segmentation: see README.md.

python main.py --config=configs/shapes_lt.py --workdir=runs/demo
"""

import os

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from configs import flags as config_parsing

# TensorFlow, which only writes TensorBoard's files here, would greet with its build options.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file and its variants, FILE[:key=value,...].", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run (local or gs://); default runs/<config and variants>."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict"], "What to do.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "evaluate, predict: folder of converted weights instead of the run's own."
)
_INPUT = flags.DEFINE_string("input", None, "predict: folder of images, or one image.")
_OUTPUT = flags.DEFINE_string("output", None, "predict: folder of the results.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the whole job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
flags.mark_flag_as_required("config")


@flags.multi_flags_validator(["mode", "checkpoint", "input", "output"])
def _check_mode(values: dict[str, str | None]) -> bool:
  mode, paths = values["mode"], [values["input"], values["output"]]
  if mode == "train" and values["checkpoint"]:
    raise flags.ValidationError(
      "training starts from the weights of --config.init.checkpoint=DIR; --checkpoint is for"
      " --mode=evaluate and --mode=predict"
    )
  if mode == "predict" and not all(paths):
    raise flags.ValidationError("--mode=predict needs --input=FOLDER and --output=FOLDER")
  if mode != "predict" and any(paths):
    raise flags.ValidationError("--input and --output are for --mode=predict")
  return True


def main(argv: list[str]) -> None:
  """Runs what --mode says; prints the table of results."""
  del argv
  # Imported here, so that a wrong flag is reported at once and loader processes never import them.
  from ltss_jax import console, mesh

  console.setup_logging()
  with console.one_message_per_error():
    mesh.initialize_distributed(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    file_and_variants = config_flags.get_config_filename(flags.FLAGS["config"])
    _run(_CONFIG.value, _WORKDIR.value or console.default_workdir(file_and_variants))


def _run(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Each mode imports what it needs: TensorBoard's libraries are for training only."""
  if _MODE.value == "predict":
    from ltss_jax import predict

    predict.predict(
      config,
      workdir,
      source=_INPUT.value,
      output=_OUTPUT.value,
      weights=_CHECKPOINT.value,
    )
    return
  from ltss_jax import results

  if _MODE.value == "evaluate":
    from ltss_jax import evaluation_run

    record = evaluation_run.evaluate_checkpoint(config, workdir, _CHECKPOINT.value)
  else:
    from ltss_jax import train

    record = train.train(config, workdir)
  if record is not None:
    print(results.format_table(record))
    logging.info("Everything about this run is in %s", workdir)


if __name__ == "__main__":
  app.run(main, flags_parser=config_parsing.parse_flags)
