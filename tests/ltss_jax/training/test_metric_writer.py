"""Metrics on disk, after a clean run and after one that was cut off."""

import ast
import importlib.util
import inspect
import os
import pathlib
import sys

import numpy as np
import pytest

from ltss_jax.training import metric_writer
from ltss_jax.workdir import json_lines

read = json_lines.read


@pytest.mark.parametrize("method", ["write_scalars", "write_images", "flush", "close"])
def test_the_interface_is_that_of_clu(method):
  """Read from its source, as importing it imports TensorFlow."""
  (folder,) = importlib.util.find_spec("clu").submodule_search_locations
  tree = ast.parse((pathlib.Path(folder) / "metric_writers" / "interface.py").read_text())
  (theirs,) = (
    [argument.arg for argument in node.args.args]
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef) and node.name == method
  )
  for writer in (
    metric_writer.MetricWriter,
    metric_writer.AsyncWriter,
    metric_writer.JsonLinesWriter,
    metric_writer.WandbWriter,
    metric_writer.event_files.EventWriter,
  ):
    assert list(inspect.signature(getattr(writer, method)).parameters) == theirs


def test_scalars_go_to_json_lines_and_tensorboard(tmp_path):
  writer = metric_writer.create_writer(tmp_path, start_step=0, is_primary=True)
  writer.write_scalars(10, {"loss": np.float32(0.5), "learning_rate": 1e-3})
  writer.write_scalars(20, {"loss": 0.25})
  writer.flush()
  writer.close()
  assert read(tmp_path / "metrics.jsonl") == [
    {"step": 10, "loss": 0.5, "learning_rate": 1e-3},
    {"step": 20, "loss": 0.25},
  ]
  events = list(tmp_path.glob("events.out.tfevents*"))
  assert len(events) == 1 and events[0].stat().st_size > 0


def test_resuming_drops_later_and_broken_lines(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n{"step": 3, "a": 3.0}\n{"step": 4, "a'
  )
  writer = metric_writer.JsonLinesWriter(path, start_step=2)
  writer.write_scalars(3, {"a": 30})
  assert [(line["step"], line["a"]) for line in read(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_resuming_keeps_damaged_lines_and_says_so(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  writer = metric_writer.JsonLinesWriter(path)
  for step in (10, 20, 30, 40):
    writer.write_scalars(step, {"loss": 1 / step})
  path.write_bytes(path.read_bytes().replace(b'"step": 20', b'"step": 60'))
  metric_writer.JsonLinesWriter(path, start_step=30)
  assert f"{path}: not as it was written" in caplog.text and '"step": 60' in caplog.text
  lines = path.read_text().splitlines()
  assert [line[:11] for line in lines] == ['{"step": 10', '{"step": 60', '{"step": 30']
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
    read(path)


def test_resuming_replaces_the_history_and_never_empties_it(tmp_path):
  path, before = tmp_path / "metrics.jsonl", tmp_path / "before"
  path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n')
  os.link(path, before)  # the file itself, whatever takes its name
  metric_writer.JsonLinesWriter(path, start_step=1)
  assert [line["step"] for line in read(path)] == [1]
  assert [line["step"] for line in read(before)] == [1, 2]


def test_other_processes_write_nothing(tmp_path):
  writer = metric_writer.create_writer(tmp_path, start_step=0, is_primary=False)
  writer.write_scalars(1, {"a": 1.0})
  writer.flush()
  assert list(tmp_path.iterdir()) == []


class Failing(metric_writer.JsonLinesWriter):
  """A disk that is full for scalars."""

  def write_scalars(self, step, scalars):
    raise OSError("no space left")


def test_a_failure_in_the_background_is_raised_and_keeps_no_other_writer_from_its_work(tmp_path):
  paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
  writer = metric_writer.AsyncWriter([Failing(paths[0]), metric_writer.JsonLinesWriter(paths[1])])
  writer.write_scalars(1, {"a": 1})
  with pytest.raises(metric_writer.asynclib.AsyncError, match="no space left"):
    writer.flush()
  writer.write_scalars(2, {"a": 2})
  with pytest.raises(metric_writer.asynclib.AsyncError, match="no space left"):
    writer.close()
  assert [line["step"] for line in read(paths[1])] == [1, 2]


def test_a_project_of_weights_and_biases_needs_its_package(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
  with pytest.raises(ValueError, match=r"wandb_project='tails'.*pip install wandb"):
    metric_writer.create_writer(tmp_path, start_step=0, is_primary=True, wandb_project="tails")


def test_weights_and_biases_gets_scalars_and_images(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_DIR", str(tmp_path))
  monkeypatch.setenv("WANDB_SILENT", "true")
  workdir = tmp_path / "demo"
  workdir.mkdir()
  writer = metric_writer.WandbWriter("tails", workdir, {"seed": 3})
  first = wandb.run.id
  writer.write_scalars(10, {"loss": np.float32(0.5)})
  writer.write_images(10, {"examples/0_a.jpg": np.zeros((1, 8, 24, 3), np.uint8)})
  assert wandb.run.step == 10
  assert (wandb.run.project, wandb.run.name, wandb.run.config["seed"]) == ("tails", "demo", 3)
  writer.close()
  again = metric_writer.WandbWriter("tails", workdir, {"seed": 3})
  assert wandb.run.id == first
  again.close()
  log = next(iter(sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb")))).read_bytes()
  assert b"loss" in log and b"0.5" in log
  assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/examples/*.png"))) == 1
