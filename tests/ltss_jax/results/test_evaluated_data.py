"""Records of other data get names of their own, and are told from those of the run."""

import pytest

from ltss_jax.results import evaluated_data, evaluation_result
from ltss_jax.workdir import atomic_file, paths

DATA = {"name": "photos", "train_images": 5, "val_images": 3, "val_labels": "ab", "val_sample": "1"}
OTHER = DATA | {"name": "rainy", "val_sample": "2"}


def note(workdir, data, **more):
  """data.json of a run."""
  content = {name: value for name, value in data.items() if name != "name"}
  atomic_file.write_json(paths.data(workdir), content | {"classes": ["sky"]} | more)


def write(workdir, name, data):
  result = {"mIoU": 50.0} | ({} if data is None else {"data": data})
  evaluation_result.write_result(result, paths.result(workdir, name))
  return result


def test_a_run_keeps_the_names_of_its_steps_for_its_own_data(tmp_path):
  note(tmp_path, DATA)
  assert evaluated_data.result_name(tmp_path, 800, DATA) == 800
  assert evaluated_data.result_name(tmp_path, 800, DATA | {"name": "renamed"}) == 800
  name = evaluated_data.result_name(tmp_path, 800, OTHER)
  assert name == f"800-{evaluated_data.key(OTHER)}" and len(name) == len("800-") + 8
  assert evaluated_data.result_name(tmp_path, "m2f", OTHER) == f"m2f-{evaluated_data.key(OTHER)}"
  write(tmp_path, 800, OTHER)  # of an older version that did not look
  assert evaluated_data.result_name(tmp_path, 800, DATA) == 800


def test_a_note_of_an_older_version_is_compared_as_far_as_it_goes(tmp_path):
  note(tmp_path, {name: value for name, value in DATA.items() if name != "val_sample"})
  assert evaluated_data.result_name(tmp_path, 800, OTHER) == 800
  assert evaluated_data.result_name(tmp_path, 800, OTHER | {"val_labels": "cd"}) != 800


def test_without_a_run_the_first_data_keep_the_plain_name(tmp_path):
  assert evaluated_data.result_name(tmp_path, "m2f", DATA) == "m2f"
  write(tmp_path, "m2f", DATA)
  assert evaluated_data.result_name(tmp_path, "m2f", DATA) == "m2f"
  name = evaluated_data.result_name(tmp_path, "m2f", OTHER)
  assert name == f"m2f-{evaluated_data.key(OTHER)}"
  write(tmp_path, name, OTHER)
  assert evaluated_data.result_name(tmp_path, "m2f", OTHER) == name
  write(tmp_path, "old", None)
  assert evaluated_data.result_name(tmp_path, "old", OTHER) == "old"
  paths.result(tmp_path, "m2f").write_text("{")  # which the evaluation is to write anew
  assert evaluated_data.result_name(tmp_path, "m2f", OTHER) == "m2f"


@pytest.mark.parametrize("has_run", [True, False])
def test_results_are_told_apart(tmp_path, has_run):
  if has_run:
    note(tmp_path, DATA)
  for name, data in ((800, DATA), (f"800-{evaluated_data.key(OTHER)}", OTHER), (600, None)):
    result = write(tmp_path, name, data)
    assert evaluated_data.is_of_other_data(tmp_path, name, result) == (data is OTHER)
  assert evaluated_data.is_of_other_data(tmp_path, 800, write(tmp_path, 800, OTHER)) == has_run


def test_a_damaged_note_is_named(tmp_path):
  paths.data(tmp_path).write_text("{")
  with pytest.raises(ValueError, match=r"data\.json is not readable"):
    evaluated_data.result_name(tmp_path, 800, DATA)
