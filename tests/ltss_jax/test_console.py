"""What a person sees when something goes wrong."""

import importlib.util
import json

import pytest
from etils import epath

from ltss_jax import checkpoint, console


@pytest.mark.parametrize(
  ("argument", "workdir"),
  [
    ("configs/shapes_lt.py", "runs/shapes_lt"),
    ("configs/ade20k.py:model=deeplabv3plus,backbone=resnet101",
     "runs/ade20k-model=deeplabv3plus-backbone=resnet101"),
  ],
)  # fmt: skip
def test_default_workdir_names_config_and_variants(argument, workdir):
  assert console.default_workdir(argument) == workdir


def test_expected_errors_become_one_message(capsys):
  with pytest.raises(SystemExit) as exit_info, console.one_message_per_error():
    with checkpoint.Checkpoints("/proc/no/such/place"):
      pass
  assert exit_info.value.code == 1
  error = capsys.readouterr().err
  assert error.startswith("Error: ") and "/proc/no" in error and "Traceback" not in error


def test_defects_keep_their_traceback():
  with pytest.raises(ZeroDivisionError), console.one_message_per_error():
    1 / 0  # noqa: B018
  with pytest.raises(ValueError, match="Expecting"), console.one_message_per_error():
    json.loads("{")  # raised in a library: nobody worded it for the user


def test_a_path_that_needs_a_package_names_it(capsys):
  if importlib.util.find_spec("s3fs"):
    pytest.skip("the package is there")
  with pytest.raises(SystemExit) as exit_info, console.one_message_per_error():
    epath.Path("s3://bucket/run").exists()  # another test gives gs:// a store
  assert exit_info.value.code == 1
  assert capsys.readouterr().err == "Error: Install s3fs to access S3\n"
  with pytest.raises(ImportError), console.one_message_per_error():
    import no_such_module  # noqa: F401


def test_interruption_is_one_line(capsys):
  with pytest.raises(SystemExit) as exit_info, console.one_message_per_error():
    raise KeyboardInterrupt
  assert exit_info.value.code == 130
  assert capsys.readouterr().err == (
    "Stopped. A training goes on from its last checkpoint, if it has one.\n"
  )
