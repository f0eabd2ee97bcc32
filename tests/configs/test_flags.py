import pytest

from tests import programs

# As the project's command: a script beside configs/, which Python then finds from any directory.
SCRIPT = """
from absl import app, flags
from ml_collections import config_flags

from configs.flags import config_argument, parse_flags

CONFIG = config_flags.DEFINE_config_file("config")
flags.DEFINE_string("workdir", None, "directory of the run")
flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "what to do")


def main(argv):
  config = CONFIG.value
  print(config_argument(), flags.FLAGS.mode)
  print(config.batch_size, config.model.backbone, config.data.flip)


app.run(main, flags_parser=parse_flags)
"""


@pytest.fixture(name="run")
def make_run(tmp_path):
  """Returns a function that runs the script with arguments, from a directory other than its own."""
  (tmp_path / "program").mkdir()
  (tmp_path / "program" / "main.py").write_text(SCRIPT)
  (tmp_path / "program" / "configs").symlink_to(programs.REPOSITORY / "configs")
  env = programs.environment(PYTHONPATH=None)

  def run(*arguments):
    return programs.run("program/main.py", *arguments, cwd=tmp_path, env=env, timeout=60)

  return run


def test_good_command_line(run):
  result = run(
    "--config=program/configs/shapes_lt.py:backbone=resnet50",
    "--config.batch_size=8",
    "--config.optimizer.learning_rate",
    "1",
    "--noconfig.data.flip",
    "--mode=evaluate",
  )
  assert result.stderr == ""
  assert result.stdout == (
    "program/configs/shapes_lt.py:backbone=resnet50 evaluate\n8 resnet50 False\n"
  )
  assert result.returncode == 0


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["--config.batch_sze=8"], ["config.batch_sze is no field", "valid: config.batch_size"]),
    (["--config.learning_rte=1"], ["config.learning_rte", "valid: config.optimizer.learning_rate"]),
    (["--config.data=3"], ["config.data is a group of fields", "config.data.crop_size"]),
    (
      ["--config.batch_size=abc"],
      ["config.batch_size=abc", "takes a whole number, as in --config.batch_size=8"],
    ),
    (["--config.data.flip=maybe"], ["config.data.flip=maybe", "takes true or false"]),
    (["--config.batch_size=0"], ["config.batch_size=0 must be at least 1", "nearest valid: 1"]),
    (["--config.batch_size"], ["Missing value for flag --config.batch_size"]),
    (["--mode=evalute"], ["--mode=evalute", "<train|evaluate>"]),
    (["--wrkdir=x"], ["Unknown command line flag 'wrkdir'", "workdir"]),
    (["stray"], ["unexpected argument 'stray'"]),
  ],
)
def test_wrong_argument_is_one_message(run, arguments, parts):
  assert_one_message(run("--config=program/configs/shapes_lt.py", *arguments), parts)


@pytest.mark.parametrize(
  ("config", "parts"),
  [
    (
      "program/configs/shape_lt.py",
      ["'program/configs/shape_lt.py' does not exist", "/shapes_lt.py"],
    ),
    ("coco_stuf_lt", ["config file 'coco_stuf_lt' does not exist", "configs/coco_stuff_lt.py"]),
    (
      "program/configs/ade20k.py:backbone=resnet51",
      ["--config=program/configs/ade20k.py:backbone=resnet51: ", "nearest valid: 'resnet50'"],
    ),
    ("program/configs/folder.py", ["config.data.root='' names no folder"]),
    ("broken.py", ["'broken.py' fails to load: line 2: NameError: name 'nothing' is not defined"]),
    ("unparsable.py", ["'unparsable.py' fails to load: SyntaxError", "unparsable.py, line 1"]),
    ("none.py", ["'none.py' fails to load: ", "no attribute 'get_config'"]),
  ],
)
def test_wrong_config_is_one_message(run, tmp_path, config, parts):
  (tmp_path / "broken.py").write_text("value = 1\nnothing.get_config()\n")
  (tmp_path / "unparsable.py").write_text("def get_config(:\n")
  (tmp_path / "none.py").write_text("value = 1\n")
  assert_one_message(run(f"--config={config}"), parts)


@pytest.mark.parametrize("required", [False, True])
def test_missing_config_flag_lists_the_files(run, tmp_path, required):
  if required:
    program = tmp_path / "program" / "main.py"
    program.write_text(
      SCRIPT.replace("app.run(", 'flags.mark_flag_as_required("config")\napp.run(')
    )
  assert_one_message(run("--mode=train"), ["give --config=FILE", "configs/shapes_lt.py"])


def test_help_needs_no_config(run):
  result = run("--help")
  assert "--workdir" in result.stdout
  assert "Traceback" not in result.stderr


def assert_one_message(result, parts):
  assert result.returncode == 2
  assert result.stdout == ""
  assert result.stderr.startswith("main.py: ")
  assert result.stderr.count("\n") == 1
  for part in parts:
    assert part in result.stderr
