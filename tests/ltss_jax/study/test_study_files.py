"""The files of a study: what it refuses to mix, and what a killed process leaves."""

import pytest

from configs import shapes_lt
from ltss_jax.results import evaluation_result
from ltss_jax.study import plan, study_files
from ltss_jax.workdir import atomic_file, paths, run_config

FREE = {"every_steps", "batch_size", "save_json", "step"}
RUN = plan.Run("baseline", 0)
OTHER_RUN, OLD_RUN, LAST_RUN = plan.Run("rfs", 1), plan.Run("rfs", 2), plan.Run("rfs", 3)


@pytest.fixture(name="folder")
def _folder(tmp_path):
  return study_files.Folder(tmp_path)


def changed(value):
  """Another value of the type that a field has."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, tuple):
    return (*value, 64)
  return f"{value}x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("field", sorted(shapes_lt.get_config().eval))
def test_results_that_are_scored_in_another_way_are_refused(folder, field):
  config = shapes_lt.get_config()
  folder.claim(config)
  folder.claim(config)
  value = config.eval[field]
  config.eval[field] = changed(value)
  if field in FREE:
    folder.claim(config)
  else:
    with pytest.raises(ValueError, match=rf"config\.eval\.{field}=.*and now it is"):
      folder.claim(config)


def test_a_field_that_an_older_study_lacks_is_refused(folder):
  config = shapes_lt.get_config()
  folder.claim(config)
  with config.unlocked():
    config.eval.new_field = 0
  with pytest.raises(ValueError, match=r"config\.eval\.new_field='absent', and now it is 0"):
    folder.claim(config)


def write_run(folder, steps=1, run=RUN, data=None, noted=None):
  """What a run leaves that has been evaluated at its last step."""
  workdir = folder.workdir(run)
  workdir.mkdir(parents=True)
  config = shapes_lt.get_config()
  config.train.steps = steps
  run_config.write(workdir, config)
  if noted:
    atomic_file.write_json(paths.data(workdir), noted)
  result = {"mIoU": 50.0} | ({"data": data} if data else {})
  evaluation_result.write_result(result, workdir / "eval" / f"{steps}.json")


PHOTOS = {"name": "photos", "val_labels": "ab"}
RAINY = {"name": "rainy", "val_labels": "cd"}


def test_a_result_of_other_data_than_the_run_is_refused(folder):
  write_run(folder, data=RAINY, noted=PHOTOS)
  with pytest.raises(ValueError, match=r"eval/1\.json is of other data \(rainy\).*--mode=evaluate"):
    folder.collect(RUN, "config", {})
  assert not folder.result(RUN).exists()


def test_results_of_different_data_are_refused(folder):
  """As where the images were changed in the middle of a study."""
  for run, data in ((RUN, PHOTOS), (OTHER_RUN, PHOTOS | {"name": "renamed"}), (OLD_RUN, None)):
    write_run(folder, run=run, data=data)
    assert folder.collect(run, "config", {})
  assert set(folder.load()) == {"baseline", "rfs"}
  write_run(folder, run=LAST_RUN, data=RAINY)
  assert folder.collect(LAST_RUN, "config", {})
  with pytest.raises(ValueError, match=r"rfs_3\.json and .*baseline_0\.json.*\(val_labels\)"):
    folder.load()


def test_an_attempt_that_was_cut_off_is_left_out(folder, tmp_path):
  write_run(folder)
  folder.add_attempt(RUN, {"seconds": 1.0})
  with (tmp_path / "attempts.jsonl").open("ab") as file:
    file.write('{"method": "baseline", "machine": "ä'.encode()[:-1])
  folder.add_attempt(RUN, {"seconds": 2.0})
  assert folder.collect(RUN, "config", {})
  content = folder.load()["baseline"][0]
  assert content["attempts"] == [{"seconds": 1.0}, {"seconds": 2.0}]
  assert content["seconds"] == 3.0


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("attempts.jsonl", '{"method": "ba{"method": "baseline", "seed": 0}\n'),
    ("runs/baseline/0/config.json", '{"train": {"st'),
    ("runs/baseline/0/eval/1.json", '{"mIo'),
  ],
)
def test_broken_files_are_named(folder, tmp_path, name, content):
  write_run(folder)
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=rf"{tmp_path / name}.*remove (it|the line)"):
    folder.collect(RUN, "config", {})
