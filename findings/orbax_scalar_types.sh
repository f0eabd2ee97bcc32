#!/usr/bin/env bash
# Orbax gives a Python number in the type that is asked for, even where that is another number: 1.5 and
# 0.1 asked for as int are 1 and 0, without an error or a warning.
#
# Seen with orbax-checkpoint 0.12.8 (orbax.checkpoint.v1), jax 0.10.2.
# So this project compares the types before it reads (docs/training.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

from orbax.checkpoint import v1 as ocp

path = f"{sys.argv[1]}/saved"
ocp.save(path, {"a": 1.5, "b": 0.1, "c": 7})
as_saved = ocp.load(path, {"a": 0.0, "b": 0.0, "c": 0})
as_int = ocp.load(path, {"a": 0, "b": 0, "c": 0})
print("asked for as they were saved:", as_saved)
print("asked for as int:", as_int)
assert as_saved == {"a": 1.5, "b": 0.1, "c": 7}
assert as_int == {"a": 1, "b": 0, "c": 7}
PYTHON
