"""JAX's cache of compiled programs: on disk, so that the next start does not compile them again.

JAX names a program's file by a digest of the program, the compiler's options and flags, the
versions of jaxlib and of the platform, and the devices. That tells processors of other instructions
apart as far as XLA's description of a device does; a folder for each kind makes it certain.
"""

import hashlib
import os
import pathlib
import platform

import jax
import platformdirs
from absl import logging
from etils import epath

# Of one folder; programs that were not used for the longest time are deleted. The training step of
# Mask2Former R50 for a CPU takes some 3 MB.
MAX_BYTES = 2 << 30
_AUTO = "auto"


def enable(setting: str) -> None:
  """Keeps compiled programs from now on, and says where; before anything is compiled.

  A folder that `JAX_COMPILATION_CACHE_DIR` or the program has set already stays as it is, unless
  nothing is to be kept. Whoever can write to the folder decides what this program runs. One that
  cannot be made or written keeps nothing; that is logged, and all else works.

  Args:
    setting: `config.compilation_cache`: "auto" for a folder in the user's cache folder, a folder
      (local or gs://), or "" for none.
  """
  if not setting:
    jax.config.update("jax_enable_compilation_cache", False)
  if not jax.config.jax_enable_compilation_cache:
    logging.info("Compiled programs are not kept")
    return
  if jax.config.jax_compilation_cache_dir:
    logging.info("Compiled programs are kept in %s", jax.config.jax_compilation_cache_dir)
    return
  folder = _default_folder() if setting == _AUTO else epath.Path(setting).expanduser()
  is_local = "://" not in os.fspath(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if is_local:
      _date_entries(pathlib.Path(folder))
  except OSError as error:
    logging.warning("Compiled programs are not kept: %s", error)
    return
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
  # Seconds. To add a program takes 0.1 ms for each one that is there.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  # Its lock is a local file's.
  jax.config.update("jax_compilation_cache_max_size", MAX_BYTES if is_local else -1)
  logging.info(
    "Compiled programs are kept in %s%s (config.compilation_cache)",
    folder,
    f", at most {MAX_BYTES >> 30} GiB" if is_local else "",
  )


def _default_folder() -> epath.Path:
  kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  return epath.Path(platformdirs.user_cache_dir("ltss_jax", appauthor=False)) / "compiled" / kind


def _processor() -> str:
  """What tells processors of other instructions apart, as far as the system says it."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")  # Linux
  lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
  flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"


def _date_entries(folder: pathlib.Path) -> None:
  """Dates programs that have no date of last use, by that of their file.

  JAX (0.10.2) dates them only where the size is bounded, and writes no program there as long as one
  has no date.
  """
  for program in folder.glob("*-cache"):
    date = program.with_name(program.name.removesuffix("-cache") + "-atime")
    if not date.exists():
      date.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))
