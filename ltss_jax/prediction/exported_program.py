"""Reads what `--mode=export` writes; a program that this JAX cannot read says so plainly."""

import json
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax import export as jax_export

from input_pipeline import checked_files

PROGRAM_FILE, WEIGHTS_FILE = "model.stablehlo", "weights.npz"
METADATA_FILE = "metadata.json"
_REMEDY = "copy the export again, or export again"


def load(
  directory: epath.PathLike,
) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, Any]]:
  """Loads an exported model.

  Args:
    directory: directory of the export.

  Returns:
    (model, metadata): model(uint8 RGB [B, H, W, 3]) is {"labels": [B, H, W]} and, where they were
    exported, "scores"; metadata is what metadata.json holds.

  Raises:
    FileNotFoundError: there is no complete export.
    ValueError: this release of JAX cannot read the program, or it is damaged.
  """
  directory = epath.Path(directory).expanduser()
  path = directory / METADATA_FILE
  if not path.exists():
    raise FileNotFoundError(
      f"{path} does not exist: {directory} holds no complete export; make one with --mode=export"
      f" --output={directory}"
    )
  metadata = json.loads(checked_files.read(path, _REMEDY))
  program = read_program(directory, metadata["jax_version"])
  weights = jax.device_put(read_weights(directory))
  call = jax.jit(program.call)
  return lambda images: jax.device_get(call(weights, images)), metadata


def read_program(directory: epath.PathLike, jax_version: str) -> jax_export.Exported:
  """Reads the program and makes sure that this release of JAX understands all of it.

  Args:
    directory: directory of the export.
    jax_version: version of the JAX that made it.

  Raises:
    ValueError: it does not.
  """
  path = epath.Path(directory) / PROGRAM_FILE
  data = checked_files.read(path, _REMEDY)
  try:
    program = jax_export.deserialize(bytearray(data))
    _check_calling_convention(program.calling_convention_version)
    program.mlir_module()  # JAX itself would look into it at the first call
  except Exception as error:  # of many kinds, by what is odd first
    raise ValueError(
      f"{path} was exported with jax {jax_version}, and jax {jax.__version__} cannot read it"
      f" ({error}). JAX reads programs of releases up to six months older or three weeks newer than"
      f" itself. Export the model again with the JAX that is to run it, or install"
      f" jax=={jax_version}; if that is this version, the file is damaged"
    ) from error
  return program


def read_weights(directory: epath.PathLike) -> list[np.ndarray]:
  """Reads the weights, in the order of the program's arguments.

  Raises:
    ValueError: they are damaged.
  """
  return list(checked_files.read_npz(epath.Path(directory) / WEIGHTS_FILE, _REMEDY).values())


def versions(program: jax_export.Exported) -> dict[str, str | int | None]:
  """{"jax_version", "calling_convention_version", "stablehlo_version"} of a program made here."""
  # The producer that the bytes of a portable artifact name after four of their own and a number.
  producer = re.match(
    rb"ML\xefR.StableHLO_v([0-9.]+)\x00", program.mlir_module_serialized, re.DOTALL
  )
  return {
    "jax_version": jax.__version__,
    "calling_convention_version": program.calling_convention_version,
    "stablehlo_version": producer[1].decode() if producer else None,
  }


def _check_calling_convention(version: int) -> None:
  """JAX compares it where programs are made, and not where they are read."""
  oldest = jax_export.minimum_supported_calling_convention_version
  newest = jax_export.maximum_supported_calling_convention_version
  if not oldest <= version <= newest:
    raise ValueError(f"its calling convention is version {version}, known are {oldest} to {newest}")
