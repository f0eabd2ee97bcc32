"""JSON lines after a clean end and after one that cut a line off."""

import json
import os

import pytest

from ltss_jax.workdir import json_lines


def test_lines_come_back(tmp_path):
  path = tmp_path / "a.jsonl"
  assert json_lines.read(path) == []
  for line in ({"step": 0, "name": "größer\u2028"}, {"step": 1}):
    json_lines.append(path, line)
  assert json_lines.read(path) == [{"step": 0, "name": "größer\u2028"}, {"step": 1}]


def test_what_was_cut_off_is_left_out_and_not_built_upon(tmp_path, caplog):
  path = tmp_path / "a.jsonl"
  path.write_bytes('{"step": 0}\n{"name": "ä'.encode()[:-1])  # in the middle of a character
  assert json_lines.read(path) == [{"step": 0}]
  assert f"{path} ends too early: what followed its line 1 is missing" in caplog.text
  json_lines.append(path, {"step": 1})
  assert json_lines.read(path) == [{"step": 0}, {"step": 1}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not as it was written.*remove the line"):
    json_lines.read(path)


def test_the_history_is_replaced_and_never_emptied(tmp_path):
  path = tmp_path / "a.jsonl"
  json_lines.append(path, {"step": 0})
  os.link(path, tmp_path / "before")  # the file itself, whatever takes its name
  json_lines.append(path, {"step": 1})
  assert json_lines.read(tmp_path / "before") == [{"step": 0}]


def test_a_cut_between_two_lines_is_noticed(tmp_path, caplog):
  path = tmp_path / "a.jsonl"
  for step in range(3):
    json_lines.append(path, {"step": step})
  assert len(json_lines.read(path)) == 3 and not caplog.text
  lines = path.read_bytes().splitlines(keepends=True)
  assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]  # for every other reader, too
  path.write_bytes(b"".join(lines[:2]))
  assert len(json_lines.read(path)) == 2
  assert f"{path} ends too early: what followed its line 2 is missing" in caplog.text


def test_a_line_that_was_changed_is_named(tmp_path):
  path = tmp_path / "a.jsonl"
  for step in range(3):
    json_lines.append(path, {"step": step, "loss": 0.25})
  data = path.read_bytes()
  second = range(data.index(b"\n") + 1, data.index(b"\n", data.index(b"\n") + 1) - 1)
  for place in second:
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(
      ValueError, match=r"a\.jsonl, line 2: not as it was written.*remove the line"
    ):
      json_lines.read(path)


def test_lines_of_older_versions_are_read_as_they_are(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"step": 0}\n{"step": 1}\n')
  json_lines.append(path, {"step": 2})
  assert [line["step"] for line in json_lines.read(path)] == [0, 1, 2]
