"""Command-line parsing that ends every wrong use in one message, without a traceback.

Left to themselves, ml_collections and absl report an unknown field by an AttributeError, a missing
config file by an error at the first access to the config, and a wrong variant by a message with a
traceback inside.
"""

import difflib
import importlib.machinery
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Sequence

import ml_collections
from absl import flags

from configs import common
from configs.fields import field_names

EXIT_CODE = 2  # what shells and argparse use for a wrong command line
FLAG = "config"

_NO_CONFIG_FILES = {
  "__init__",
  "common",
  "derive",
  "fields",
  "flags",
  "models",
  "validation",
  "variants",
}


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line; `app.run(main, flags_parser=parse_flags)`.

  The program must have defined the flag `config` with `config_flags.DEFINE_config_file`.

  Args:
    argv: the program's name and its arguments; equal to sys.argv, which config flags read again.

  Returns:
    The program's name alone: further arguments that are no flags are an error.

  Raises:
    SystemExit: with EXIT_CODE after one message on stderr, where a flag, the config file, a
      variant, a field or a value is wrong; with absl's code after --help.
  """
  given = None
  try:
    arguments = flags.FLAGS.read_flags_from_files(list(argv[1:]), force_gnu=False)
    given = _last_config(arguments)
    if given is not None:
      _check_fields(arguments, load(given))
    rest = flags.FLAGS(argv)
    config = flags.FLAGS[FLAG].value
    if config is None:
      raise ValueError(_no_config_message())
    if len(rest) > 1:
      raise ValueError(f"unexpected argument {rest[1]!r}; every argument is a flag: --NAME=VALUE")
    common.validate(config)
  except flags.IllegalFlagValueError as error:
    # Where the program marks the flag as required, absl says so itself, in words of its own.
    _stop(_with_expectation(str(error), given) if given else _no_config_message())
  except (ValueError, FileNotFoundError, flags.Error) as error:
    _stop(str(error))
  return rest


def config_argument() -> str:
  """Returns FILE[:variants] as given on the command line, which must have been parsed."""
  return flags.FLAGS[FLAG].config_filename


def load(given: str) -> ml_collections.ConfigDict:
  """Loads a config file with its variants.

  Args:
    given: FILE[:variants].

  Returns:
    The config, not checked.

  Raises:
    FileNotFoundError: there is no such file; names the nearest.
    ValueError: the file fails, or a variant is wrong; names the file.
  """
  name, *variants = given.split(":", 1)
  path = pathlib.Path(name)
  if not path.is_file():
    raise FileNotFoundError(f"config file {name!r} does not exist{_nearest_file(path)}")
  loader = importlib.machinery.SourceFileLoader(path.stem, name)
  module = types.ModuleType(path.stem)
  try:
    loader.exec_module(module)
    get_config = module.get_config
  except Exception as error:
    raise ValueError(f"config file {name!r} fails to load: {_cause(error, name)}") from error
  try:
    return get_config(*variants)
  except ValueError as error:
    raise ValueError(f"--{FLAG}={given}: {error}") from error
  except Exception as error:
    raise ValueError(f"config file {name!r}: get_config fails: {_cause(error, name)}") from error


def _stop(message: str) -> None:
  program = pathlib.Path(sys.argv[0])
  name = program.parent.name if program.name == "__main__.py" else program.name
  sys.stderr.write(f"{name}: {message}\n")
  sys.exit(EXIT_CODE)


def _no_config_message() -> str:
  return f"give --{FLAG}=FILE, one of: {', '.join(map(_shown, _config_files()))}"


def _last_config(arguments: Sequence[str]) -> str | None:
  """Returns FILE[:variants] of the last --config=FILE[:variants], as absl would take it."""
  found = None
  for i, argument in enumerate(arguments):
    if argument == "--":
      break
    name, equals, value = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name == FLAG:
      found = value if equals else next(iter(arguments[i + 1 :]), None)
  return found


def _cause(error: Exception, filename: str) -> str:
  """Returns the error behind the last line of the config file that led to it."""
  if isinstance(error, SyntaxError):
    return f"{type(error).__name__}: {error}"  # names the line itself
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == filename]
  where = f"line {lines[-1]}: " if lines else ""
  return f"{where}{type(error).__name__}: {error}"


def _config_files() -> list[pathlib.Path]:
  files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
  return [file for file in files if file.stem not in _NO_CONFIG_FILES]


def _shown(path: pathlib.Path) -> str:
  """The path as the user would type it: relative to the current directory where it lies below."""
  here = pathlib.Path.cwd()
  path = path.resolve()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _nearest_file(missing: pathlib.Path) -> str:
  """Returns a hint at the most similar existing file, beside the missing one or in configs/."""
  beside = missing.parent.glob("*.py") if missing.parent != pathlib.Path() else ()
  package = pathlib.Path(__file__).parent
  files = _config_files() + [file for file in beside if file.resolve().parent != package]
  by_name = {file.stem: file for file in files}
  nearest = difflib.get_close_matches(missing.stem, by_name, n=1, cutoff=0.0)[0]
  return f"; nearest existing file: {_shown(by_name[nearest])}"


def _overridden_field(argument: str) -> str | None:
  """Returns FIELD of an argument --config.FIELD[=VALUE] or --noconfig.FIELD, None for any other."""
  match = re.match(rf"--?(?:no)?{FLAG}\.([^=]*)", argument)
  return match and match.group(1)


def _check_fields(arguments: Sequence[str], config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for the first --config.FIELD that is no field."""
  names = field_names(config)
  for argument in arguments:
    if argument == "--":
      return
    field = _overridden_field(argument)
    if field is None or field in names:
      continue
    inside = [name for name in names if name.startswith(f"{field}.")]
    if inside:
      raise ValueError(
        f"{FLAG}.{field} is a group of fields; set one of its own:"
        f" {', '.join(f'{FLAG}.{name}' for name in inside)}"
      )
    raise ValueError(
      f"{FLAG}.{field} is no field; nearest valid: {FLAG}.{_nearest_field(field, names)}"
    )


def _nearest_field(field: str, names: Sequence[str]) -> str:
  """Returns the most similar name, where a field may be given without its group."""

  def similarity(name: str) -> tuple[float, float]:
    whole = difflib.SequenceMatcher(None, field, name).ratio()
    last = difflib.SequenceMatcher(None, field.rsplit(".")[-1], name.rsplit(".")[-1]).ratio()
    return max(whole, last), whole

  return max(names, key=similarity)


def _with_expectation(message: str, given: str) -> str:
  """Adds to absl's message about a wrong value what the config's field takes."""
  match = re.match(r"flag (\S*?)=", message)
  field = match and _overridden_field(match.group(1))
  if not field:
    return message
  default = load(given)[field]
  kinds = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a tuple"}
  return f"{message}; {FLAG}.{field} takes {kinds[type(default)]}, as in --{FLAG}.{field}={default}"
