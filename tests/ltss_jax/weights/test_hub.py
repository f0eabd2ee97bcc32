"""Checkpoints of a hub: a real one in a process of its own, asked by programs as users start them.

`huggingface_hub` reads its settings when it is imported, hence a program for each of them.
"""

import json
import pickle
import shutil
import socket

import numpy as np
import pytest

from ltss_jax.weights import hub
from tests import programs

COMMIT, OLD_COMMIT = "1" * 40, "0" * 40
ARRAYS = {"a.weight": np.float32([[1, 2]]), "a.bias": np.float32([3])}
TOKEN = "hf_right"

# Prints what each address becomes: the path in the cache and the sum of all numbers, or the error.
_FETCH = """
import json
import sys

import numpy as np

from ltss_jax.weights import hub, readers

for address in sys.argv[1:]:
  try:
    path = hub.fetch(address)
    total = sum(float(np.sum(array)) for array in readers.read_arrays(path).values())
    print(json.dumps([str(path), total]))
  except ValueError as error:
    print(json.dumps([str(error), None]))
"""


def write(path, arrays):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pickle.dumps(arrays))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """A hub's folder and its address."""
  folder = tmp_path_factory.mktemp("hub")
  lab = folder / "lab"
  write(lab / "whole" / COMMIT / "model.safetensors", ARRAYS)  # the content tells the format
  write(lab / "whole" / COMMIT / "pytorch_model.bin", {"a": np.float32([10])})
  write(lab / "whole" / COMMIT / "runs" / "last" / "step.ckpt", {"a": np.float32([100])})
  write(lab / "whole" / OLD_COMMIT / "pytorch_model.bin", {"a": np.float32([1000])})
  write(lab / "other" / COMMIT / "weights.pth", ARRAYS)
  write(lab / "gated" / COMMIT / "model.safetensors", ARRAYS)
  (lab / "gated" / "token").write_text(TOKEN)
  places = {}
  for i, (name, array) in enumerate(ARRAYS.items(), 1):
    places[name] = f"model-{i:05d}-of-00002.safetensors"
    write(lab / "sharded" / COMMIT / places[name], {name: array})
  index = lab / "sharded" / COMMIT / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": places}))
  shutil.copytree(lab / "sharded", lab / "incomplete")
  (lab / "incomplete" / COMMIT / places["a.bias"]).unlink()
  for repository in lab.iterdir():
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "refs%2Fpr%2F1").write_text(OLD_COMMIT)
  server = programs.start(str(programs.REPOSITORY / "tests" / "hub_server.py"), str(folder))
  yield folder, f"http://127.0.0.1:{server.stdout.readline().strip()}"
  server.kill()
  server.communicate()


def settings(home, endpoint, **changes):
  """Variables of a program that knows this hub and this cache alone."""
  ours = dict(HF_HOME=str(home), HF_ENDPOINT=endpoint, HF_TOKEN=None, HF_HUB_OFFLINE=None)
  return programs.environment(**ours | changes)


def fetch(addresses, *arguments, **changes):
  """What the addresses become: a list of (path in the cache or error, sum of all numbers)."""
  env = settings(*arguments, **changes)
  done = programs.run("-c", _FETCH, *addresses, env=env, check=True, timeout=300)
  return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def unused_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


# Address -> (where it lies in the cache, sum of all numbers).
THERE = {
  "hf://lab/whole": (f"whole/snapshots/{COMMIT}/model.safetensors", 6),
  "hf://lab/whole/": (f"whole/snapshots/{COMMIT}/model.safetensors", 6),
  "hf://lab/whole@main/runs/last/step.ckpt": (
    f"whole/snapshots/{COMMIT}/runs/last/step.ckpt",
    100,
  ),
  f"hf://lab/whole@{OLD_COMMIT}": (f"whole/snapshots/{OLD_COMMIT}/pytorch_model.bin", 1000),
  "hf://lab/whole@refs%2Fpr%2F1": (f"whole/snapshots/{OLD_COMMIT}/pytorch_model.bin", 1000),
  "hf://lab/sharded": (f"sharded/snapshots/{COMMIT}/model.safetensors.index.json", 6),
  "hf://lab/gated": (f"gated/snapshots/{COMMIT}/model.safetensors", 6),
}


@pytest.fixture(scope="module")
def cache(served, tmp_path_factory):
  """A cache with what is there, fetched with the right token; what the addresses became."""
  home = tmp_path_factory.mktemp("home")
  return home, fetch(THERE, home, served[1], HF_TOKEN=TOKEN)


def test_what_is_there(cache):
  home, found = cache
  paths = [(str(home / f"hub/models--lab--{path}"), total) for path, total in THERE.values()]
  assert found == paths
  fetched = {path.name for path in home.glob("hub/models--lab--sharded/snapshots/*/*")}
  assert len(fetched) == 3
  assert not list(home.glob(f"hub/models--lab--whole/snapshots/{COMMIT}/pytorch_model.bin"))


def test_what_is_not_there(served, tmp_path):
  _, endpoint = served
  page = f"{endpoint}/lab"
  missing = "model.safetensors or model.safetensors.index.json or pytorch_model.bin or"
  expected = {
    "hf://lab/nothing": f": there is no lab/nothing on {endpoint}, or it is private: check the"
    " name; if it is private, log in with `hf auth login` or set HF_TOKEN",
    "hf://lab/other": f": there is no {missing} pytorch_model.bin.index.json in lab/other; give one"
    f" of the files of {page}/other/tree/main",
    "hf://lab/whole/best.pth": ": there is no best.pth in lab/whole; give one of the files of"
    f" {page}/whole/tree/main",
    "hf://lab/whole@v2": ": lab/whole has no branch, tag or commit v2",
    "hf://lab/gated": f" is gated: accept its licence on {page}/gated with your account, then log"
    " in with `hf auth login` or set HF_TOKEN",
    "hf://lab/incomplete": ": model.safetensors.index.json names model-00002-of-00002.safetensors,"
    " which is not in the repository",
  }
  found = fetch(expected, tmp_path, endpoint)
  assert found == [(address + text, None) for address, text in expected.items()]


def test_a_token_that_is_not_accepted(served, tmp_path):
  found = fetch(["hf://lab/gated"], tmp_path, served[1], HF_TOKEN="hf_wrong")
  text = f"hf://lab/gated: {served[1]} does not accept your token: log in with `hf auth login` or"
  assert found == [(f"{text} set HF_TOKEN", None)]


def test_offline_from_the_cache(served, cache):
  home, before = cache
  folder, endpoint = served
  requests = (folder / "requests").read_text()
  found = fetch([*THERE, "hf://lab/other/weights.pth"], home, endpoint, HF_HUB_OFFLINE="1")
  assert found[:-1] == before
  text = f"hf://lab/other/weights.pth: weights.pth is not in the cache {home / 'hub'}, and"
  assert found[-1] == (
    f"{text} HF_HUB_OFFLINE forbids to fetch it: unset it, or fetch it beforehand",
    None,
  )
  assert (folder / "requests").read_text() == requests


def test_without_network(cache):
  """A port that nobody listens at; what the cache has is taken all the same."""
  home, before = cache
  endpoint = f"http://127.0.0.1:{unused_port()}"
  # The library asks several times for what is not there, 23 s in all.
  found = fetch(["hf://lab/whole", "hf://lab/other"], home, endpoint)
  assert found[0] == before[0]
  error, total = found[1]
  assert total is None
  text = f"hf://lab/other: model.safetensors is not in the cache {home / 'hub'}, and {endpoint}"
  assert error.startswith(f"{text} gives no answer (")
  assert error.endswith("): check the network and HF_ENDPOINT")
  assert "Connection refused" in error
  assert len(error.splitlines()) == 1


def test_the_command_line(served, tmp_path):
  arguments = ["--config=configs/ade20k.py", f"--output={tmp_path / 'weights'}"]
  env = settings(tmp_path / "home", served[1], HF_TOKEN=TOKEN)

  def run(*others):
    done = programs.run("-m", "ltss_jax.convert", *arguments, *others, env=env)
    assert done.returncode == 1
    return done.stderr

  text = run("--source=hf://lab/gated@v2")
  assert text == "Error: hf://lab/gated@v2: lab/gated has no branch, tag or commit v2\n"
  text = run("--source=hf://lab/gated")
  assert f"taking model.safetensors of commit {COMMIT}" in text
  assert "Error: hf://lab/gated: the checkpoint has names of no known kind, such as a.bias" in text
  text = run("--source=hf://lab/gated", "--to=detectron2", "--output=model.pkl")
  assert text.startswith(
    "Error: --source=hf://lab/gated is a published file; --to writes what is in"
  )


@pytest.mark.parametrize(
  "address",
  ["hf://", "hf://name", "hf://owner/", "hf://datasets/owner/name", "hf://a/b@", "hf://a/b@c@d/f"],
)
def test_malformed_addresses(address):
  with pytest.raises(
    ValueError, match=f"^{address} names no repository of a model on the hub; give"
  ):
    hub.fetch(address)


def test_one_shard_alone():
  with pytest.raises(ValueError) as error:
    hub.fetch("hf://a/b@c/d/model-00002-of-00003.safetensors")
  assert str(error.value) == (
    "hf://a/b@c/d/model-00002-of-00003.safetensors is one of several parts of a checkpoint; give"
    " hf://a/b@c/d/model.safetensors.index.json"
  )


def test_what_is_an_address():
  assert hub.is_address("hf://a/b")
  assert not hub.is_address("/data/hf://a/b")
  assert not hub.is_address(programs.REPOSITORY)
