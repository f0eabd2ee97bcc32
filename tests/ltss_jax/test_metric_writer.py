"""Metrics on disk, after a clean run and after one that was cut off."""

import json

import numpy as np

from ltss_jax import metric_writer


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


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


def test_other_processes_write_nothing(tmp_path):
  writer = metric_writer.create_writer(tmp_path, start_step=0, is_primary=False)
  writer.write_scalars(1, {"a": 1.0})
  writer.flush()
  assert list(tmp_path.iterdir()) == []
