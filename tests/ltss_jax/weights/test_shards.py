"""Checkpoints in several files, whole and with parts missing."""

import json
import pickle

import numpy as np
import pytest

from ltss_jax.weights import readers

SHARDS = [
  {"a.weight": np.float32([[1, 2]]), "a.bias": np.float32([3])},
  {"b.weight": np.float32([[4], [5]])},
]
ARRAYS = SHARDS[0] | SHARDS[1]


def safetensors(arrays):
  """The bytes of a .safetensors file of float32 arrays."""
  header, body = {}, b""
  for name, array in arrays.items():
    offsets = [len(body), len(body) + array.nbytes]
    header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
    body += array.tobytes()
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + body


KINDS = {
  "safetensors": ("model", safetensors),
  "bin": ("pytorch_model", pickle.dumps),
}


def write(folder, kind="safetensors", **changes):
  """Two shards and their index, as save_pretrained names them; returns the index."""
  stem, dump = KINDS[kind]
  places = {}
  for i, arrays in enumerate(SHARDS, 1):
    file = f"{stem}-{i:05d}-of-00002.{kind}"
    (folder / file).write_bytes(dump(arrays))
    places |= dict.fromkeys(arrays, file)
  index = folder / f"{stem}.{kind}.index.json"
  content = {"metadata": {"total_size": 20}, "weight_map": places | changes}
  index.write_text(json.dumps(content, indent=2))
  return index


def assert_all_read(path):
  read = readers.read_arrays(path)
  assert set(read) == set(ARRAYS)
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_or_its_folder_gives_all_shards(tmp_path, kind):
  index = write(tmp_path, kind)
  assert_all_read(index)
  assert_all_read(tmp_path)


def test_a_folder_with_one_file(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(ARRAYS))
  assert_all_read(tmp_path)
  (tmp_path / "pytorch_model.bin").write_bytes(b"damaged")  # safetensors goes first
  (tmp_path / "model.safetensors").write_bytes(safetensors(ARRAYS))
  assert_all_read(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_shard_alone_is_named_as_one_of_n(tmp_path, kind):
  index = write(tmp_path, kind)
  shard = tmp_path / f"{KINDS[kind][0]}-00002-of-00002.{kind}"
  with pytest.raises(ValueError, match=f"{shard} is part 2 of 2 of a checkpoint; give {index}$"):
    readers.read_arrays(shard)
  index.unlink()
  with pytest.raises(ValueError, match=f"part 2 of 2 .*; fetch all of them and {index.name}, and"):
    readers.read_arrays(shard)


def test_the_only_shard_is_whole(tmp_path):
  path = tmp_path / "model-00001-of-00001.safetensors"
  path.write_bytes(safetensors(ARRAYS))
  assert_all_read(path)


def test_missing_shards_are_all_named(tmp_path):
  index = write(tmp_path, **{"c.weight": "model-00003-of-00002.safetensors"})
  (tmp_path / "model-00001-of-00002.safetensors").unlink()
  with pytest.raises(ValueError) as error:
    readers.read_arrays(index)
  assert str(error.value) == (
    f"{index} names 3 files, of which 2 are not beside it: model-00001-of-00002.safetensors,"
    f" model-00003-of-00002.safetensors; fetch them into {tmp_path}"
  )


def test_a_shard_that_is_not_what_the_index_says(tmp_path):
  index = write(tmp_path, **{"a.extra": "model-00001-of-00002.safetensors"})
  with pytest.raises(
    ValueError, match=r"model-00001-of-00002.safetensors .*lacks 1 names.*a.extra"
  ):
    readers.read_arrays(index)
  index = write(tmp_path)
  shard = tmp_path / "model-00001-of-00002.safetensors"
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(
    ValueError, match=r"model-00001-of-00002.safetensors cannot be read, .*a\.bias"
  ):
    readers.read_arrays(index)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "", "..", 3])
def test_an_index_leads_nowhere_else(tmp_path, file):
  (tmp_path / "model.safetensors").write_bytes(safetensors(ARRAYS))
  (tmp_path / "inside").mkdir()
  index = write(tmp_path / "inside", **{"c.weight": file})
  with pytest.raises(
    ValueError, match=r"index.json (places c.weight in|names 3 files, of which 1)"
  ):
    readers.read_arrays(index)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"model_type": "mask2former"}', "is JSON without the 'weight_map' of an index; give the"),
    ('{"weight_map": {}}', "is JSON without the 'weight_map'"),
    ('{"weight_map": {"a": ', "is no index of a checkpoint: .*; fetch it again"),
    ('{"a":' * 100000, "is no index of a checkpoint: .*; fetch it again"),
  ],
)
def test_other_json_is_no_index(tmp_path, text, message):
  path = tmp_path / "model.safetensors.index.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    readers.read_arrays(path)
