"""Runs a program of Python and kills it with SIGKILL at a chosen moment of a training.

  python tests/main/kill_at.py MOMENT main.py --config=... --workdir=...

A moment is a step on the way of one file: the process is killed by itself in the thread that is
about to take it, so that nothing of it has happened and everything before it has.
"""

import os
import re
import runpy
import signal
import sys
import time

# Moment -> (audit event of the interpreter, its path, what has to be there already).
MOMENTS = {
  "the start": ("os.mkdir", r"/checkpoints$", ""),
  "the config": ("os.rename", r"/config\.json$", ""),
  "the note of the data": ("open", r"/\.data\.json\.tmp$", ""),
  "the first compilation": ("open", r"/jit_step-\w+-cache$", ""),  # which looks for an older one
  "the first metrics": ("open", r"/metrics\.jsonl$", ""),
  "the first save": ("os.mkdir", r"/4\.orbax-checkpoint-tmp$", ""),
  "the end of the first save": ("os.rename", r"/checkpoints/4$", ""),
  "the first evaluation": ("open", r"/jit__labels-\w+-cache$", "checkpoints/4"),
  "the counts of the first evaluation": ("os.rename", r"/eval/8_confusion\.npz$", ""),
  "the first results": ("os.rename", r"/eval/8\.json$", ""),
  "the second save": ("os.mkdir", r"/8\.orbax-checkpoint-tmp$", ""),
  "the end of the second save": ("os.rename", r"/checkpoints/8$", ""),
  "the removal of the first save": ("os.rmdir", r"/checkpoints/4$", ""),
  "the last results": ("os.rename", r"/eval/12\.json$", "checkpoints/8"),
  "the state of the last save": ("os.rename", r"/12\.orbax-checkpoint-tmp/state$", ""),
  "the end of the last save": ("os.rename", r"/checkpoints/12$", ""),
  "the examples": ("os.rename", r"/eval/12_examples\.npz$", "checkpoints/12"),
  "the report": ("os.rename", r"/report\.html$", ""),
}
# Killed at these one after another, a training shows what each leaves to the next start.
TWO = ("the first results", "the examples")
OTHERS = tuple(moment for moment in MOMENTS if moment != "the examples")


def kill_at(moment: str, workdir: str) -> None:
  """Makes this process kill itself at a moment of the training in a workdir."""
  event, pattern, before = MOMENTS[moment]

  def hook(name: str, arguments: tuple) -> None:
    if name == event and re.search(pattern, str(arguments[name == "os.rename"])):
      while before and not os.path.exists(os.path.join(workdir, before)):
        time.sleep(0.01)  # other threads go on
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)


if __name__ == "__main__":
  sys.argv = sys.argv[1:]
  moment, program = sys.argv[0], sys.argv[1]
  sys.argv = sys.argv[1:]
  (workdir,) = (a.partition("=")[2] for a in sys.argv if a.startswith("--workdir="))
  sys.path.insert(0, os.getcwd())
  kill_at(moment, workdir)
  runpy.run_path(program, run_name="__main__")
