#!/usr/bin/env bash
# JAX's folder of compiled programs: one program in it without a date of last use, and no other is kept.
# JAX dates programs (NAME-atime beside NAME-cache) only while jax_compilation_cache_max_size bounds the
# folder, when it writes or reads one, and needs the dates of all of them to write one. So a bound that
# is given to a folder which had none, as JAX's defaults leave it, ends the keeping for as long as one
# of the programs in it is not run: a warning at each new program, and each start compiles it again.
#
# Seen with jax 0.10.2: a first start without a bound keeps 1 program; a second one with a bound of 1 GB
# compiles another and warns "Error writing persistent compilation cache entry ... FileNotFoundError"; so
# does a third. In a folder that was bounded from the beginning the other is kept, and read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 filelock==3.20.0
cat > "$folder/start.py" <<'PYTHON'
import pathlib
import sys
import warnings

import jax
import numpy as np

folder, bound, sizes = sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3:]]
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_compilation_cache_max_size", bound)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(
  lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
with warnings.catch_warnings(record=True) as caught:
  warnings.simplefilter("always")
  for size in sizes:
    jax.block_until_ready(jax.jit(lambda x: x + 1)(np.zeros(size, np.float32)))
failed = sum("FileNotFoundError" in str(warning.message) for warning in caught)
kept = len(list(pathlib.Path(folder).glob("*-cache")))
print(f"bound {bound}: {len(hits)} read, {failed} not written, {kept} in the folder")
PYTHON
start() { JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/start.py" "$@"; }
{
  start "$folder/unbounded" -1 2
  start "$folder/unbounded" 1000000000 3
  start "$folder/unbounded" 1000000000 3
  start "$folder/bounded" 1000000000 2
  start "$folder/bounded" 1000000000 3
  start "$folder/bounded" 1000000000 3
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
bound -1: 0 read, 0 not written, 1 in the folder
bound 1000000000: 0 read, 1 not written, 1 in the folder
bound 1000000000: 0 read, 1 not written, 1 in the folder
bound 1000000000: 0 read, 0 not written, 1 in the folder
bound 1000000000: 0 read, 0 not written, 2 in the folder
bound 1000000000: 1 read, 0 not written, 2 in the folder
SEEN
