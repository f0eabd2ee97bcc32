"""JSON lines after a clean end and after one that cut a line off."""

import os

import pytest

from ltss_jax import json_lines


def test_lines_come_back(tmp_path):
  path = tmp_path / "a.jsonl"
  assert json_lines.read(path) == []
  for line in ({"step": 0, "name": "größer\u2028"}, {"step": 1}):
    json_lines.append(path, line)
  assert json_lines.read(path) == [{"step": 0, "name": "größer\u2028"}, {"step": 1}]


def test_what_was_cut_off_is_left_out_and_not_built_upon(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes('{"step": 0}\n{"name": "ä'.encode()[:-1])  # in the middle of a character
  assert json_lines.read(path) == [{"step": 0}]
  json_lines.append(path, {"step": 1})
  assert json_lines.read(path) == [{"step": 0}, {"step": 1}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r"a\.jsonl holds a line that is not JSON"):
    json_lines.read(path)


def test_the_history_is_replaced_and_never_emptied(tmp_path):
  path = tmp_path / "a.jsonl"
  json_lines.append(path, {"step": 0})
  os.link(path, tmp_path / "before")  # the file itself, whatever takes its name
  json_lines.append(path, {"step": 1})
  assert json_lines.read(tmp_path / "before") == [{"step": 0}]
