"""What a run notes about where it ran."""

import json
import os
import re

from ltss_jax.workdir import run_environment


def test_every_start_adds_a_line(tmp_path):
  run_environment.append(tmp_path, step=0, train_images=12, val_images=7)
  run_environment.append(tmp_path, step=40, train_images=12, val_images=7)
  lines = [json.loads(t) for t in (tmp_path / "environment.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [0, 40]
  line = lines[0]
  assert (line["train_images"], line["val_images"], line["device"]) == (12, 7, "cpu")
  assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line["time"])
  assert re.fullmatch(r"([0-9a-f]{40})?", line["commit"])  # "" in a copy without its history
  assert line["versions"]["jax"][0].isdigit() and line["python"][0] == "3"


def test_earlier_starts_are_never_lost(tmp_path):
  path, before = tmp_path / "environment.jsonl", tmp_path / "before"
  path.write_text('{"step": 0}\n')
  os.link(path, before)  # the file itself, whatever takes its name
  run_environment.append(tmp_path, step=40, train_images=12, val_images=7)
  assert len(path.read_text().splitlines()) == 2
  assert before.read_text() == '{"step": 0}\n'


def test_without_git_the_commit_is_empty(monkeypatch):
  monkeypatch.setenv("PATH", "")
  described = run_environment.describe()
  assert described["commit"] == "" and described["uncommitted_changes"] is False
