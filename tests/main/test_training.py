"""main.py as its users run it: real processes, real files."""

import json
import shutil

import cv2

from ltss_jax.report import run_files
from ltss_jax.visualization import example_images
from tests.main import runs


def test_training_prints_and_writes_what_the_readme_says(reference):
  workdir, process = reference
  assert "backbone/stem/conv/kernel" in process.stderr  # parameter overview
  progress = [line for line in process.stderr.splitlines() if f"step 6/{runs.NUM_STEPS}" in line]
  assert len(progress) == 1
  for word in ("loss", "learning_rate", "images/s", "data wait", "ETA"):
    assert word in progress[0]
  assert "Traceback" not in process.stderr
  for word in ("sky", "grass", "roof", "mIoU", "rare", "common", "frequent"):
    assert word in process.stdout
  names = {path.name for path in workdir.iterdir()}
  assert {"checkpoints", "eval", "metrics.jsonl", "config.json", "environment.jsonl"} <= names
  assert any(name.startswith("events.out.tfevents") for name in names)
  assert [step for step, _ in runs.metrics(workdir, "loss")] == [3, 6, 9, 12]
  assert [step for step, _ in runs.metrics(workdir, "eval/mIoU")] == [8, 12]
  record = json.loads((workdir / "eval" / "12.json").read_text())
  assert {"mIoU", "fwIoU", "mACC", "pACC", "image_level", "pixel_level", "per_class"} <= set(record)
  assert set(record["image_level"]) == {"rare", "common", "frequent"}


def test_training_ends_with_pictures_and_a_report(reference, folder, data_dir):
  workdir, _ = reference
  kept = example_images.load(workdir / "eval" / "12_examples.npz")
  assert len(kept) == 7  # all validation images, worst first
  assert [e.miou for e in kept] == sorted(e.miou for e in kept)
  record = json.loads((workdir / "eval" / "12.json").read_text())
  assert kept[0].miou <= record["mIoU"] / 100 <= kept[-1].miou
  text = (workdir / "report.html").read_text(encoding="utf-8")
  for word in ("roof", "worst", f"{record['mIoU']:.2f}", "data:image/jpeg", "share (%)"):
    assert word.lower() in text.lower()
  # Made anew from the files alone, it is the same page.
  process = runs.run(
    folder, data_dir, workdir, "--mode=report", f"--output={workdir / 'again.html'}"
  )
  assert process.returncode == 0, process.stderr
  assert (workdir / "again.html").read_text(encoding="utf-8") == text


def test_training_traces_the_steps_that_the_config_names(reference, traced_steps):
  workdir, process = reference
  assert traced_steps(workdir) == [[5, 6]]
  assert f"A trace of config.train.profile_steps is in {workdir}/profile" in process.stderr


def test_evaluate_mode_scores_any_saved_step(reference, folder, data_dir):
  workdir, _ = reference
  written = (workdir / "eval" / "8.json").read_bytes()
  (workdir / "eval" / "8.json").unlink()
  process = runs.run(folder, data_dir, workdir, "--mode=evaluate", "--config.eval.step=8")
  assert process.returncode == 0, process.stderr
  assert (workdir / "eval" / "8.json").read_bytes() == written
  assert "roof" in process.stdout


def test_evaluating_other_data_leaves_the_record_of_the_run(reference, folder, data_dir, tmp_path):
  workdir = shutil.copytree(reference[0], tmp_path / "run")
  rainy = shutil.copytree(folder, tmp_path / "rainy")
  for path in (rainy / "images" / "val").iterdir():  # the labels stay as they are
    cv2.imwrite(str(path), cv2.imread(str(path)) // 4)
  kept = {path: path.read_bytes() for path in (workdir / "eval").glob("12*")}
  assert len(kept) == 3  # record, counts, pictures
  process = runs.run(rainy, data_dir, workdir, "--mode=evaluate", "--config.train.report=true")
  assert process.returncode == 0, process.stderr
  assert all(path.read_bytes() == content for path, content in kept.items())
  names = {path.name for path in (workdir / "eval").glob("12-*")}
  (name,) = (name.removesuffix(".json") for name in names if name.endswith(".json"))
  assert names == {f"{name}.json", f"{name}_confusion.npz", f"{name}_examples.npz"}
  assert f"(rainy, 7 validation images) than those of {workdir}/eval/12.json" in process.stderr
  record = json.loads((workdir / "eval" / f"{name}.json").read_text())
  own = json.loads((workdir / "eval" / "12.json").read_text())
  assert record["mIoU"] != own["mIoU"] and record["data"]["name"] == "rainy"
  run = run_files.read_run(workdir)
  assert run.result["mIoU"] == own["mIoU"] and [other for other, _ in run.others] == [name]


def test_wrong_uses_end_in_one_message(reference, folder, data_dir, tmp_path):
  workdir, _ = reference
  cases = [
    ((workdir, "--config.seed=5"), "config.seed: 0 there, 5 now"),
    ((tmp_path, "--config.batch_size=0"), "config.batch_size"),
    ((tmp_path, "--mode=evaluate"), "holds no trained model"),
  ]
  for arguments, expected in cases:
    process = runs.run(folder, data_dir, *arguments)
    assert process.returncode != 0
    assert expected in process.stderr
    assert "Traceback" not in process.stderr
  other = tmp_path / "other"  # the same images, with classes of other names
  shutil.copytree(folder, other)
  (other / "classes.txt").write_text("cat\ndog\ncow\n")
  for mode in ("train", "evaluate"):
    process = runs.run(other, data_dir, workdir, f"--mode={mode}")
    assert process.returncode != 0 and "Traceback" not in process.stderr
    assert "classes: 3 (sky, grass, roof) there, 3 (cat, dog, cow) now" in process.stderr
  process = runs.run(folder, data_dir, tmp_path, "--config.batch_size=6", devices=4)
  assert process.returncode != 0 and "Traceback" not in process.stderr
  assert "config.batch_size is 6" in process.stderr and "4 or 8" in process.stderr


def test_diverging_training_stops_with_a_message_and_keeps_the_last_checkpoint(
  folder, data_dir, tmp_path
):
  process = runs.run(
    folder,
    data_dir,
    tmp_path,
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=1e30",
    "--config.train.max_nonfinite_steps=0",
    "--config.checkpoint.every_steps=1",
  )
  assert process.returncode == 1
  assert "not finite at step" in process.stderr and "Last good checkpoint: 1" in process.stderr
  assert "learning_rate" in process.stderr and "Traceback" not in process.stderr
  # No checkpoint of this run was evaluated, so none is the best.
  best = runs.run(folder, data_dir, tmp_path, "--mode=evaluate", "--config.eval.step=-1")
  assert best.returncode == 1 and "Traceback" not in best.stderr
  assert "none there was evaluated in training" in best.stderr
  assert "has the steps [1" in best.stderr
