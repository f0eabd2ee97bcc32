"""Trains and evaluates long-tailed semantic segmentation: see README.md.

python main.py --config=configs/shapes_lt.py --workdir=runs/demo
"""

import os

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
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the whole job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
  """Runs what --mode says; prints the table of results."""
  del argv
  # Imported here, so that a wrong flag is reported at once and loader processes never import them.
  from ltss_jax import console, evaluation_run, mesh, results, train

  console.setup_logging()
  with console.one_message_per_error():
    mesh.initialize_distributed(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    file_and_variants = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = _WORKDIR.value or console.default_workdir(file_and_variants)
    run = {"train": train.train, "evaluate": evaluation_run.evaluate_checkpoint}[_MODE.value]
    record = run(_CONFIG.value, workdir)
    if record is not None:
      print(results.format_table(record))
      logging.info("Everything about this run is in %s", workdir)


if __name__ == "__main__":
  app.run(main, flags_parser=config_parsing.parse_flags)
