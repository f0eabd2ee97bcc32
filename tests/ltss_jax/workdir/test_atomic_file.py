"""Atomic writes, and JSON that knows whether it was changed."""

import hashlib
import json
import re

import numpy as np
import pytest

from ltss_jax.workdir import atomic_file


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_text_replaces_a_file_and_makes_its_folder(tmp_path):
  path = tmp_path / "new" / "a.txt"
  for text in ("first", "zweite Fassung, größer"):
    atomic_file.write_text(path, text)
    assert path.read_bytes() == text.encode() and names(path.parent) == ["a.txt"]


def test_a_file_appears_at_the_end_of_its_block(tmp_path):
  path = tmp_path / "counts.npz"
  path.write_text("before")
  with atomic_file.atomic_write(path) as file:
    np.savez(file, counts=np.arange(3))
    assert path.read_text() == "before"
  with np.load(path) as arrays:
    assert arrays["counts"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
  path = tmp_path / "a.txt"
  path.write_text("before")
  with pytest.raises(error), atomic_file.atomic_write(path) as file:
    file.write(b"half")
    raise error
  assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_a_directory_in_its_place_leaves_nothing_behind(tmp_path):
  (tmp_path / "a.txt").mkdir()
  with pytest.raises(OSError):
    atomic_file.write_text(tmp_path / "a.txt", "text")
  assert names(tmp_path) == ["a.txt"]


CONTENT = {"mIoU": 46.5, "names": ("sky", "größer\u2028"), "none": None, "eval": {"flip": False}}
AS_READ = CONTENT | {"names": list(CONTENT["names"])}


def test_json_comes_back_with_its_digest_as_the_last_entry(tmp_path):
  path = tmp_path / "a" / "a.json"
  atomic_file.write_json(path, CONTENT)
  assert atomic_file.read_json(path) == AS_READ
  plain = json.loads(path.read_text(encoding="utf-8"))
  assert list(plain) == [*CONTENT, "digest"]
  text = r'{"eval":{"flip":false},"mIoU":46.5,"names":["sky","gr\u00f6\u00dfer\u2028"],"none":null}'
  assert plain["digest"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def test_no_single_bit_changes_what_is_read(tmp_path):
  path = tmp_path / "a.json"
  atomic_file.write_json(path, CONTENT)
  data = path.read_bytes()
  same = 0
  for place in range(0, 8 * len(data), 3):
    content = bytearray(data)
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    try:
      assert atomic_file.read_json(path) == AS_READ
      same += 1
    except ValueError as error:
      assert str(path) in str(error) and "restore or remove it" in str(error)
  assert same < 15  # in the blanks between the entries


def test_json_without_a_digest_is_read_as_it_is(tmp_path):
  """As older versions wrote it."""
  path = tmp_path / "a.json"
  for content in (CONTENT, [1, 2], {}):
    path.write_text(json.dumps(content))
    assert atomic_file.read_json(path) == json.loads(json.dumps(content))


def test_other_tools_may_lay_the_file_out_anew(tmp_path):
  path = tmp_path / "a.json"
  atomic_file.write_json(path, CONTENT, indent=2)
  path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True))
  assert atomic_file.read_json(path) == AS_READ


def test_an_edit_is_named_and_can_be_meant(tmp_path):
  path = tmp_path / "a.json"
  atomic_file.write_json(path, CONTENT)
  path.write_text(path.read_text(encoding="utf-8").replace("46.5", "47.5"), encoding="utf-8")
  with pytest.raises(
    ValueError, match=r"a\.json is damaged or was edited: .*evaluate.*'digest' and"
  ):
    atomic_file.read_json(path, "evaluate again")
  text = path.read_text(encoding="utf-8")
  path.write_text(re.sub(r',\s*"digest": ".*"', "", text), encoding="utf-8")
  assert atomic_file.read_json(path) == AS_READ | {"mIoU": 47.5}


def test_numbers_that_are_not_json_are_refused_where_they_may_not_be(tmp_path):
  path = tmp_path / "a.json"
  atomic_file.write_json(path, {"value": float("inf")})
  assert atomic_file.read_json(path) == {"value": float("inf")}
  with pytest.raises(ValueError, match="not JSON compliant"):
    atomic_file.write_json(path, {"value": float("nan")}, allow_nan=False)
  assert atomic_file.read_json(path) == {"value": float("inf")}
