"""Every file that a reader trusts, damaged: it gives the same result or one message, never another.

The files come from those who write them; each is read as its readers do.
"""

import dataclasses
import re
import shutil

import cv2
import numpy as np
import pytest

from configs import folder as folder_config
from input_pipeline import prepared
from input_pipeline.raw import note
from ltss_jax import console
from ltss_jax.dataset import prepare_run
from ltss_jax.report import run_files
from ltss_jax.results import evaluation_result
from ltss_jax.study import plan, study_files
from ltss_jax.training import metric_writer
from ltss_jax.visualization import example_images
from ltss_jax.workdir import atomic_file, paths, run_config, run_data, run_environment

RUN = plan.Run("baseline", 0)
STEPS = 6


def draw_photos(root):
  """A user's folder: 6 + 3 images of three classes."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 6), ("val", 3)):
    for kind in ("images", "annotations"):
      (root / kind / split).mkdir(parents=True)
    for i in range(count):
      label = rng.integers(0, 3, (5, 6), np.uint8).repeat(8, 0).repeat(8, 1)
      image = rng.integers(0, 256, (40, 48, 3), np.uint8)
      cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), image)
      cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), label)
  (root / "classes.txt").write_text("sky\ngrass\nroof\n")


def write_evaluation(workdir, name, dataset, rng):
  confusion = rng.integers(0, 1000, (3, 3))
  record = evaluation_result.make_result(
    confusion,
    class_names=dataset.metadata.class_names,
    train_images=dataset.train_stats.images_with_class,
    train_pixel_share=dataset.train_stats.pixel_share_sum,
    image_groups=dataset.image_groups,
    pixel_groups=dataset.pixel_groups,
  )
  evaluation_result.write_result(record, paths.result(workdir, name))
  with atomic_file.atomic_write(paths.confusion(workdir, name)) as file:
    np.savez_compressed(file, confusion=confusion)


class Made:
  """What was made, and the readers of it."""

  def __init__(self, base):
    draw_photos(base / "photos")
    config = folder_config.get_config()
    config.data.root, config.data.dir = str(base / "photos"), str(base / "data")
    config.train.steps, config.train.log_every_steps = STEPS, 2
    self.config, self.dataset = prepare_run(config)
    self.data, self.run = self.dataset.directory, base / "run"
    self._write_run()
    self.study = study_files.Folder(base / "study")
    self.study.claim(self.config)
    shutil.copytree(self.run, self.study.workdir(RUN))
    for seconds in (1.5, 2.5):
      self.study.add_attempt(RUN, {"seconds": seconds, "commit": "abc", "machine": {"cores": 2}})
    self.collect()

  def _write_run(self):
    """What a training and an evaluation of converted weights leave, but for checkpoints."""
    rng = np.random.default_rng(0)
    self.run.mkdir()
    run_config.write(self.run, self.config)
    run_data.write(self.run, self.dataset)
    metrics = metric_writer.JsonLinesWriter(paths.metrics(self.run))
    for step in (2, 4, 6):
      metrics.write_scalars(step, {"loss": 1 / step, "grad_norm": rng.random()})
    for step in (0, 4):
      run_environment.append(self.run, step=step, train_images=6, val_images=3)
    for name in (3, STEPS):
      write_evaluation(self.run, name, self.dataset, rng)
    label = rng.integers(0, 3, (40, 48), np.uint8)
    image = rng.integers(0, 256, (40, 48, 3), np.uint8)
    example = example_images.Example("0.jpg", 0.5, image, label, label)
    example_images.save([example, example], paths.examples(self.run, STEPS))
    self.weights = self.run.with_name("weights_run")
    write_evaluation(self.weights, "m2f", self.dataset, rng)

  def read_data(self):
    """Everything that training and evaluation take from prepared data."""
    splits = {}
    for split in prepared.SPLITS:
      source = prepared.open_source(self.data, split)
      splits[split] = prepared.read_pixel_counts(self.data, split), list(source)
    return prepared.read_metadata(self.data), note.read_note(self.data), splits

  def read_run(self):
    return run_files.read_run(self.run)

  def read_weights_run(self):
    return run_files.read_run(self.weights)

  def check_run(self):
    """What a resumed run, an evaluation and a prediction compare themselves with."""
    run_config.check(self.run, self.config)
    run_data.check(self.run, self.dataset)
    return run_config.read(self.run)

  def read_study(self):
    self.study.claim(self.config)
    return self.study.load()

  def collect(self):
    """The result of a study's run, collected anew from what the run has left."""
    self.study.result(RUN).unlink(missing_ok=True)
    assert self.study.collect(RUN, "config", {})
    return self.study.load()


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  return Made(tmp_path_factory.mktemp("made"))


# What is damaged -> (where it lies, relative to the folder of all, and who reads it).
KINDS = {
  "training records": ("data/folder/*/1.0.0/folder-train.array_record*", Made.read_data),
  "validation records": ("data/folder/*/1.0.0/folder-val.array_record*", Made.read_data),
  "sums of prepared data": ("data/folder/*/1.0.0/SHA256SUMS", Made.read_data),
  "classes": ("data/folder/*/1.0.0/classes.json", Made.read_data),
  "list of record files": ("data/folder/*/1.0.0/dataset_info.json", Made.read_data),
  "features of records": ("data/folder/*/1.0.0/features.json", Made.read_data),
  "note": ("data/folder/*/1.0.0/source.json", Made.read_data),
  "training pixels": ("data/folder/*/1.0.0/train_pixel_counts.npz", Made.read_data),
  "validation pixels": ("data/folder/*/1.0.0/val_pixel_counts.npz", Made.read_data),
  "config": ("run/config.json", Made.check_run),
  "data of a run": ("run/data.json", Made.check_run),
  "results": ("run/eval/6.json", Made.read_run),
  "earlier results": ("run/eval/3.json", Made.read_run),
  "counts of results": ("run/eval/6_confusion.npz", Made.read_run),
  "examples": ("run/eval/6_examples.npz", Made.read_run),
  "metrics": ("run/metrics.jsonl", Made.read_run),
  "starts": ("run/environment.jsonl", Made.read_run),
  "config of a study": ("study/config.json", Made.read_study),
  "result of a study": ("study/results/baseline_0.json", Made.read_study),
  "attempts of a study": ("study/attempts.jsonl", Made.collect),
  "results of weights": ("weights_run/eval/m2f.json", Made.read_weights_run),
  "run of a study": ("study/runs/baseline/0/eval/6.json", Made.collect),
}


def assert_equal(ours, theirs):
  """Bit by bit, whatever they are made of."""
  if dataclasses.is_dataclass(theirs):
    ours, theirs = vars(ours), vars(theirs)
  assert type(ours) is type(theirs)
  if isinstance(theirs, dict):
    assert list(ours) == list(theirs)
    ours, theirs = list(ours.values()), list(theirs.values())
  if isinstance(theirs, list | tuple):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
      assert_equal(one, other)
  elif isinstance(theirs, np.ndarray):
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()
  else:
    assert ours == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_the_same_result_or_one_message(made, kind, damaged, capsys, caplog):
  pattern, read = KINDS[kind]
  (path,) = made.run.parent.glob(pattern)
  data, expected = path.read_bytes(), read(made)
  try:
    for content in damaged(data):
      path.write_bytes(content)
      caplog.clear()
      try:
        with console.one_message_per_error():
          found = read(made)
      except SystemExit:
        message = capsys.readouterr().err
        assert message.startswith("Error: ") and path.name in message
        assert re.search("restore|remove|again|anew", message), message
      else:
        if f"{path} ends too early" not in caplog.text and f"{path} has lost" not in caplog.text:
          assert_equal(found, expected)
  finally:
    path.write_bytes(data)
  assert_equal(read(made), expected)
