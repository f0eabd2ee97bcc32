"""What a study runs: methods, seeds, their order, and the config of each run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from configs import common, flags as config_parsing, variants

BASELINE = "baseline"
DEFAULT_SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Run:
  """One training: a method, as in "rfs+copy_paste", and a seed."""

  method: str
  seed: int

  @property
  def name(self) -> str:
    """Name of its files: "rfs+copy_paste_0"."""
    return f"{self.method}_{self.seed}"


def parse_seeds(text: str) -> tuple[int, ...]:
  """Reads the numbers of "0,1,2".

  Raises:
    ValueError: an entry is no whole number of at least 0, or given twice; or there is none.
  """
  parts = [part.strip() for part in text.split(",")]
  wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
  if wrong:
    raise ValueError(
      f"--seeds={text}: {wrong[0]!r} is no whole number of at least 0, as in --seeds=0,1,2"
    )
  seeds = tuple(map(int, parts))
  if len(set(seeds)) < len(seeds):
    raise ValueError(f"--seeds={text} names a seed twice; name it once")
  return seeds


def parse_methods(text: str, seeds: Sequence[int] | None = None) -> dict[str, tuple[int, ...]]:
  """Reads the methods and their seeds.

  Args:
    text: comma-separated methods, "baseline,rfs+copy_paste"; with ":N" behind it, "rfs:3", a method
      takes the first N seeds.
    seeds: seeds of every method. None: `DEFAULT_SEEDS`, and 0 to N - 1 for a method with ":N".

  Returns:
    Method -> seeds, in the order of the text; the parts of a combination in the order of
    `variants.VARIANTS`, so that it has one name.

  Raises:
    ValueError: a method is unknown or given twice, or N is no number of seeds that there are.
  """
  chosen: dict[str, tuple[int, ...]] = {}
  for part in (part.strip() for part in text.split(",")):
    given, colon, number = part.partition(":")
    try:
      method = canonical(given)
    except ValueError as error:
      raise ValueError(f"--methods={text}: {error}") from error
    if method in chosen:
      raise ValueError(f"--methods={text} names {method!r} twice; name it once")
    chosen[method] = _seeds_of(part, number, seeds) if colon else tuple(seeds or DEFAULT_SEEDS)
  return chosen


def canonical(method: str) -> str:
  """Orders the parts of a combination; ValueError where the config variant `method` has none."""
  parts = variants.parse_variants(f"method={method.strip()}")["method"].split("+")
  return "+".join(name for name in variants.VARIANTS["method"] if name in parts)


def _seeds_of(part: str, number: str, seeds: Sequence[int] | None) -> tuple[int, ...]:
  """The first `number` seeds."""
  if not (number.isascii() and number.isdigit() and int(number) >= 1):
    raise ValueError(
      f"--methods: {part!r} does not end with a number of seeds of at least 1, as in rfs:3"
    )
  available = range(int(number)) if seeds is None else seeds
  if int(number) > len(available):
    raise ValueError(
      f"--methods: {part!r} wants {number} seeds, but --seeds names {len(available)}; name more"
    )
  return tuple(available[: int(number)])


def schedule(methods: Mapping[str, Sequence[int]]) -> list[Run]:
  """Orders the runs by seed, then by method: whenever it ends early, there are pairs to compare."""
  longest = max(methods.values(), key=len)
  return [Run(method, seed) for seed in longest for method in methods if seed in methods[method]]


def sort_key(method: str) -> tuple[int, tuple[int, ...]]:
  """Sorts the baseline first, then single methods, then combinations."""
  known = list(variants.VARIANTS["method"])
  places = tuple(known.index(part) for part in method.split("+"))
  return len(places), places


def config_argument(given: str, method: str) -> str:
  """Adds a method to FILE[:variants] of the command line."""
  file, _, chosen = given.partition(":")
  return f"{file}:{','.join(filter(None, (chosen.strip(' ,'), f'method={method}')))}"


def check_configs(given: str, overrides: Mapping[str, Any], methods: Sequence[str]) -> None:
  """Builds and checks the config of every method, before hours go into the first of them.

  Args:
    given: FILE[:variants] of the command line.
    overrides: field -> value, from --config.FIELD=VALUE.
    methods: canonical names.

  Raises:
    ValueError: a method does not fit the model, or method or seed are chosen twice.
  """
  if "method" in variants.parse_variants(given.partition(":")[2]):
    raise ValueError(f"--config={given} chooses a method; leave it to --methods")
  if "seed" in overrides:
    raise ValueError(f"--config.seed={overrides['seed']} is given; leave it to --seeds")
  for method in methods:
    try:
      config = config_parsing.load(config_argument(given, method))
      config.update_from_flattened_dict(overrides)
      common.validate(config)
    except ValueError as error:
      raise ValueError(f"method {method!r} does not fit: {error}") from error
