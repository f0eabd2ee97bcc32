"""Times two starts of a training after one another: up to the first step, in processes of its own.

The first one compiles into an empty folder of compiled programs, the second one reads it.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app

_MAIN = pathlib.Path(__file__).resolve().parents[1] / "main.py"
_PAIRS = 5
_TARGET = 0.3
_LINE = "The first step"
# The published Mask2Former R50 on the drawn images.
_RESNET50 = {
  "model.backbone": "resnet50",
  "model.channels": 256,
  "model.encoder_layers": 6,
  "model.decoder_layers": 9,
  "model.num_heads": 8,
  "model.encoder_width": 1024,
  "model.decoder_width": 2048,
  "model.num_queries": 100,
  "loss.num_points": 12544,
  "data.crop_size": 256,
  "batch_size": 2,
}


def _seconds_to_first_step(arguments: list[str]) -> float:
  """Starts a training and kills it after its first step.

  Raises:
    RuntimeError: it ended before.
  """
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, str(_MAIN), *arguments, f"--workdir={workdir}"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    start = time.perf_counter()
    process = subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    output = []
    for line in process.stdout:
      output.append(line)
      if _LINE in line:
        seconds = time.perf_counter() - start
        process.kill()
        process.communicate()
        return seconds
    raise RuntimeError("the training ended before its first step:\n" + "".join(output[-20:]))


def compare(title: str, fields: dict[str, object], data_dir: str) -> None:
  """Prints what a first and a second start take, and their ratio."""
  arguments = [
    "--config=configs/shapes_lt.py",
    f"--config.data.dir={data_dir}",
    "--config.data.num_workers=0",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]
  pairs = []
  for _ in range(_PAIRS):
    with tempfile.TemporaryDirectory() as folder:
      cached = [*arguments, f"--config.compilation_cache={folder}"]
      pairs.append((_seconds_to_first_step(cached), _seconds_to_first_step(cached)))
  first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
  ratio = statistics.median(b / a for a, b in pairs)
  print(
    f"start to first step, {title}: first {first:.1f} s, second {second:.1f} s, ratio {ratio:.2f}"
    f" (target {_TARGET})",
    flush=True,
  )


def main(argv: list[str]) -> None:
  """Compares the demo and Mask2Former R50."""
  del argv
  with tempfile.TemporaryDirectory() as data_dir:
    prepare = [sys.executable, "-m", "input_pipeline.prepare", "shapes_lt"]
    subprocess.run([*prepare, f"--data_dir={data_dir}"], check=True, capture_output=True)
    compare("demo", {}, data_dir)
    compare("Mask2Former R50, 2 x 256 x 256", _RESNET50, data_dir)


if __name__ == "__main__":
  app.run(main)
