#!/usr/bin/env bash
# jax.make_array_from_process_local_data counts as an explicit transfer in a job of one process and as
# an implicit one in a job of two: under jax.transfer_guard("disallow") the same line makes an array
# in the first and raises in the second. A training loop that was tried with the guard on one host
# stops on two. (In one process the function is a device_put; in more it puts the shards itself.)
#
# Seen with jax 0.10.2, CPU devices, Python 3.11: "made (4, 2)" of one process; of both of two
# "JaxRuntimeError: INVALID_ARGUMENT: Disallowed host-to-device transfer". device_put of a local
# device is let through in both. `ltss_jax/mesh.py: put_batch` says that its transfer is meant, and
# tests/main/test_processes.py trains with two processes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/rows.py" <<'PYTHON'
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

index, count, port = map(int, sys.argv[1:])
if count > 1:
  jax.distributed.initialize(f"localhost:{port}", count, index)
sharding = NamedSharding(jax.make_mesh((len(jax.devices()),), ("data",)), PartitionSpec("data"))
rows = np.zeros((4, 2), np.float32)
with jax.transfer_guard("disallow"):
  jax.device_put(rows, jax.local_devices()[0])
  try:
    print("made", jax.make_array_from_process_local_data(sharding, rows).shape)
  except jax.errors.JaxRuntimeError as error:
    print(f"{type(error).__name__}: {str(error).split(': aval')[0]}")
PYTHON
export JAX_PLATFORMS=cpu
port=$("$folder/venv/bin/python" -c "
import socket
with socket.socket() as s:
  s.bind(('localhost', 0))
  print(s.getsockname()[1])")
cd "$folder"
venv/bin/python rows.py 0 1 0 > one
venv/bin/python rows.py 0 2 "$port" > first &
venv/bin/python rows.py 1 2 "$port" > second
wait %1
grep -x "made (4, 2)" one
for process in first second; do
  grep -x "JaxRuntimeError: INVALID_ARGUMENT: Disallowed host-to-device transfer" "$process"
done
