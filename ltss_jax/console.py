"""What a person sees on the terminal: our own log lines, and one message per error."""

import contextlib
import logging as python_logging
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator

from absl import logging

_PROJECT = pathlib.Path(__file__).resolve().parent.parent
_EXIT_CODE = 1
# Wrong use, bad data, a full disk: the message says it all where our own code raised it. Anything
# else is a defect and keeps its traceback.
_EXPECTED_ERRORS = (ValueError, OSError, RuntimeError)


# What tfds warns of whenever a data set is made of a folder.
_NOISE = "Using custom data configuration"


def setup_logging() -> None:
  """Shows the project's own log from INFO on, that of libraries from WARNING on.

  Errors with which a library's background thread died stay out: the library raises them in the main
  thread too. --v=1 shows everything.
  """
  if logging.get_verbosity() >= logging.DEBUG:
    return
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  logging.get_absl_handler().addFilter(
    lambda record: (
      (
        _is_ours(record.pathname)
        or (record.levelno >= python_logging.WARNING and record.exc_info is None)
      )
      and not record.getMessage().startswith(_NOISE)
    )
  )


def _is_ours(filename: str) -> bool:
  path = pathlib.Path(filename).resolve()
  return path.is_relative_to(_PROJECT) and "site-packages" not in path.parts


@contextlib.contextmanager
def one_message_per_error() -> Iterator[None]:
  """Turns an expected error into one message on stderr and exit code 1, without a traceback.

  With --v=1 the traceback is shown as well.
  """
  try:
    yield
  except (*_EXPECTED_ERRORS, ImportError) as error:
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, ImportError):
      # fsspec names the package that it needs for a path such as gs://bucket/run.
      is_expected = pathlib.Path(raised_in).parent.name == "fsspec"
    else:
      is_expected = _is_ours(raised_in) or isinstance(error, OSError)
    if not is_expected:
      raise
    logging.vlog(1, "Traceback:", exc_info=True)
    logging.flush()
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(_EXIT_CODE)
  except KeyboardInterrupt:
    print("Stopped. A training goes on from its last checkpoint, if it has one.", file=sys.stderr)
    sys.exit(130)


def default_workdir(config_argument: str) -> str:
  """Names a run: "configs/ade20k.py:backbone=resnet101" -> "runs/ade20k-backbone=resnet101"."""
  path, _, variants = config_argument.partition(":")
  name = pathlib.Path(path).stem + (f"-{variants}" if variants else "")
  return f"runs/{re.sub(r'[^A-Za-z0-9_.=+-]', '-', name)}"
