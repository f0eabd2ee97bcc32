"""Contents are checked on every mesh, whichever one they were noted on."""

import json
import socket

import jax
import ml_dtypes
import numpy as np
import pytest
import xxhash
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from ltss_jax.checkpoint.contents import Contents
from tests import programs


def on_mesh(tree, devices, *axes):
  """The tree on some of the four devices, divided over the axes of its arrays that are named."""
  mesh = jax.make_mesh((devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:devices])
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def values():
  rng = np.random.default_rng(0)
  return {
    "a": rng.standard_normal((8, 4), np.float32),
    "b": rng.standard_normal((12, 16)).astype(ml_dtypes.bfloat16),
    "list": [np.arange(16, dtype=np.int32).reshape(4, 4)],
  }


def save(path, tree):
  """Notes the contents of a tree and reads them again, as Orbax calls for them."""
  ocp.save_checkpointables(path, {"contents": Contents(tree, {"number": 3})})
  contents = Contents()
  ocp.load_checkpointables(path, {"contents": contents})
  assert contents.facts == {"number": 3}
  return contents


def test_digests_are_those_of_the_bytes_in_their_places(tmp_path):
  tree = {"whole": np.arange(6, dtype=np.float32), "number": np.float32([2])[0, ...]}
  save(tmp_path / "one", tree)
  written = json.loads((tmp_path / "one" / "contents" / "process_0.json").read_text())
  digest = xxhash.xxh3_128(np.arange(6, dtype="<f4").tobytes()).hexdigest()
  assert written["arrays"]["whole"] == {
    "dtype": "float32",
    "shape": [6],
    "parts": {"0:6": digest},
  }
  assert written["arrays"]["number"]["parts"].keys() == {""}
  save(tmp_path / "divided", {"whole": on_mesh(tree["whole"], 2, "x")})
  written = json.loads((tmp_path / "divided" / "contents" / "process_0.json").read_text())
  parts = written["arrays"]["whole"]["parts"]
  assert parts["3:6"] == xxhash.xxh3_128(np.arange(3, 6, dtype="<f4").tobytes()).hexdigest()


MESHES = {
  "numpy": lambda tree: tree,
  "replicated": lambda tree: on_mesh(tree, 4),
  "rows over 4": lambda tree: on_mesh(tree, 4, "x"),
  "columns over 2": lambda tree: on_mesh(tree, 2, None, "x"),
}


@pytest.mark.parametrize("saved_on", MESHES)
def test_one_changed_bit_is_seen_on_every_mesh(saved_on, tmp_path):
  contents = save(tmp_path / "saved", MESHES[saved_on](values()))
  assert contents.misfits(values()) == []
  for place in MESHES.values():
    assert contents.damages(place(values())) == []
    changed = values()
    changed["b"].view(np.uint8)[11, 5] ^= 1
    assert contents.damages(place(changed)) == ["b"]
    changed["list"][0][0, 0] += 1
    assert contents.damages(place(changed)) == ["b", "list/0"]
    assert contents.damages(place(changed), within=["list"]) == ["list/0"]
  assert contents.damages({"a": values()["a"]}) == ["b", "list/0"]


def test_a_zero_with_another_sign_and_a_nan_with_other_bits_are_changes(tmp_path):
  contents = save(tmp_path / "saved", {"x": np.float32([0.0, np.nan])})
  assert contents.damages({"x": np.float32([0.0, np.nan])}) == []
  assert contents.damages({"x": np.float32([-0.0, np.nan])}) == ["x"]
  other = np.float32([0.0, np.nan])
  other.view(np.uint32)[1] ^= 1
  assert contents.damages({"x": other}) == ["x"]


def test_misfits_name_what_differs_without_reading_values(tmp_path):
  contents = save(tmp_path / "saved", values())
  asked = values() | {"a": jax.ShapeDtypeStruct((4, 8), np.float32), "c": np.zeros(1)}
  asked["list"] = [jax.ShapeDtypeStruct((4, 4), np.int16)]
  del asked["b"]
  assert contents.misfits(asked) == [
    "- b: not asked for",
    "! a: saved as float32 (8, 4), asked for as float32 (4, 8)",
    "+ c: not saved",
    "! list/0: saved as int32 (4, 4), asked for as int16 (4, 4)",
  ]


TWO_PROCESSES = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp
from ltss_jax.checkpoint.contents import Contents
address, process, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,))
value = np.arange(64, dtype=np.float32).reshape(8, 8)
def place(value, *axes):
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return {"w": jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])}
ocp.save_checkpointables(folder, {"contents": Contents(place(value, "x"))})
contents = Contents()
ocp.load_checkpointables(folder, {"contents": contents})
changed = value.copy()
changed[5, 1] += 1  # of the second process
for axes in ((), ("x",), (None, "x")):
  print(axes, contents.damages(place(value, *axes)), contents.damages(place(changed, *axes)))
"""


def test_each_of_two_processes_notes_its_own_parts(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  env = programs.environment(devices=2)
  processes = [
    programs.start("-c", TWO_PROCESSES, address, str(i), tmp_path / "saved", env=env)
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=120) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  lines = [[x for x in stdout.splitlines() if x.startswith("(")] for stdout, _ in outputs]
  replicated, rows, columns = zip(*lines, strict=True)
  assert replicated == ("() [] ['w']",) * 2
  # Each process looks at the rows that it has; the reader asks all of them.
  assert rows == ("('x',) [] []", "('x',) [] ['w']")
  assert columns == ("(None, 'x') [] ['w']",) * 2
  for i, parts in ((0, {"0:2,0:8", "2:4,0:8"}), (1, {"4:6,0:8", "6:8,0:8"})):
    written = json.loads((tmp_path / "saved" / "contents" / f"process_{i}.json").read_text())
    assert written["arrays"]["w"]["parts"].keys() == parts
