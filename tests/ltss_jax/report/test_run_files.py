"""Reading a workdir, whole, partial and broken."""

import json

import numpy as np
import pytest

from ltss_jax.report import run_files
from ltss_jax.results import evaluated_data, evaluation_result as results_lib
from ltss_jax.workdir import atomic_file, paths


def test_a_run_is_read_with_the_results_of_its_last_step(workdir):
  run = run_files.read_run(workdir)
  assert (run.label, run.evaluated) == ("demo", "100")
  assert [step for step, _ in run.history] == [50, 100]
  assert run.result == atomic_file.read_json(workdir / "eval" / "100.json")
  assert run.confusion.shape == (12, 12) and len(run.examples) == 8
  assert run.config["optimizer.learning_rate"] == 1e-3
  assert run.starts[0]["commit"] == "0123456789abcdef"


def test_results_alone_suffice(workdir):
  results = (workdir / "eval" / "100.json").read_text()
  for path in [*workdir.glob("eval/*"), *workdir.glob("*.json*")]:
    path.unlink()
  (workdir / "eval" / "m2f.json").write_text(results)  # of converted weights
  (workdir / "eval" / "m2f_predictions.json").write_text("[]")
  run = run_files.read_run(workdir)
  assert (run.evaluated, run.confusion, run.history, run.lines) == ("m2f", None, [], [])


OWN = {"name": "photos", "val_images": 7, "val_labels": "ab"}
OTHER = {"name": "rainy", "val_images": 5, "val_labels": "cd"}


def write_as_of(workdir, name, data, source=100):
  """The result of a step once more, as one of some data."""
  result = atomic_file.read_json(paths.result(workdir, source)) | {"data": data}
  results_lib.write_result(result, paths.result(workdir, name))


def test_results_of_other_data_are_not_those_of_the_run(workdir):
  atomic_file.write_json(paths.data(workdir), {"val_images": 7, "val_labels": "ab"})
  write_as_of(workdir, 100, OWN)
  write_as_of(workdir, "100-0123abcd", OTHER)
  write_as_of(workdir, 150, OTHER)  # a copy by hand
  run = run_files.read_run(workdir)
  assert (run.evaluated, run.result["data"], run.is_of_other_data) == ("100", OWN, False)
  assert [step for step, _ in run.history] == [50, 100]  # 50 is of an older version
  assert [(name, result["data"]) for name, result in run.others] == [
    ("100-0123abcd", OTHER),
    ("150", OTHER),
  ]
  for name in (50, 100):
    paths.result(workdir, name).unlink()
  run = run_files.read_run(workdir)
  assert (run.evaluated, run.is_of_other_data, run.history) == ("150", True, [])


def test_weights_without_a_run_are_shown_on_the_data_that_came_first(workdir):
  write_as_of(workdir, "m2f", OWN)
  write_as_of(workdir, f"m2f-{evaluated_data.key(OTHER)}", OTHER)
  for name in (50, 100):
    paths.result(workdir, name).unlink()
  run = run_files.read_run(workdir)
  assert (run.evaluated, len(run.others)) == ("m2f", 1)


def test_a_folder_without_results_is_refused(tmp_path):
  for folder in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(FileNotFoundError, match="holds no results.*--mode=evaluate"):
      run_files.read_run(folder)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("config.json", b"{", "config.json is not readable"),
    ("eval/100.json", b"\xff\xfe", "100.json is not readable"),
    ("eval/100.json", b"[1]", "100.json lacks .*mIoU"),
    ("metrics.jsonl", b"not JSON\n", "metrics.jsonl, line 1: not as"),
    ("eval/100_confusion.npz", b"", "100_confusion.npz is not readable"),
    ("eval/100_examples.npz", b"PK", "100_examples.npz is not readable"),
  ],
)
def test_broken_files_are_named(workdir, name, content, message):
  (workdir / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    run_files.read_run(workdir)


def test_counts_of_other_classes_are_refused(workdir):
  np.savez(paths.confusion(workdir, 100), confusion=np.zeros((3, 3), np.int64))
  with pytest.raises(ValueError, match=r"\(3, 3\).*12 classes"):
    run_files.read_run(workdir)


def test_counts_of_another_evaluation_are_refused(workdir):
  """As a process leaves them that was killed between the two files."""
  path = paths.confusion(workdir, 100)
  path.write_bytes(paths.confusion(workdir, 50).read_bytes())
  with pytest.raises(ValueError, match=r"100_confusion\.npz .*of another evaluation.*100\.json"):
    run_files.read_run(workdir)


def test_series_keep_the_last_value_of_a_step_and_thin_out_by_means(workdir):
  path = paths.metrics(workdir)
  lines = [{"step": s, "loss": float(s)} for s in range(1, 1001)]
  lines += [{"step": 1000, "loss": 1002.0}, {"step": 3, "other": 1.0}, {"step": 5, "loss": np.nan}]
  # The last line was being written when the process died.
  path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10')
  run = run_files.read_run(workdir)
  steps, values = run_files.series(run, "loss", max_points=2000)
  assert len(steps) == 1000 and values[-1] == 1002
  steps, values = run_files.series(run, "loss", max_points=100)
  assert len(steps) <= 100
  assert steps[0] == values[0] and 990 < steps[-1] < values[-1]
  assert len(run_files.series(run, "absent")[0]) == 0
