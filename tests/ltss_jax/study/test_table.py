from ltss_jax.study import table


def rows(text):
  lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
  return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_tables_by_hand(study):
  text = table.markdown(study, "baseline")
  found = rows(text)
  header = ["mIoU", "image rare", "common", "frequent", "pixel rare", "common", "frequent"]
  groups = ["5.00 ± 2.00", "42.00 ± 2.00", "72.00 ± 2.00"]
  assert found[0] == ["method", "seeds", *header, "min a run"]
  assert found[1] == ["baseline", "3", "31.00 ± 2.00", *groups, *groups, "1.7"]
  groups = ["7.00 ± 3.00", "45.00 ± 2.00", "72.00 ± 2.65"]
  assert found[2] == ["rfs", "3", "32.75 ± 2.63", *groups, *groups, "1.0"]
  assert found[3][:4] == ["rfs+copy_paste", "1", "31.25", "6.00"]

  # mIoU: +1, +2, +2.25; deviation 0.661, error 0.382; t^2 = 21, p = 1 - sqrt(21 / 23) = 0.0445.
  groups = ["**+2.00** ± 0.58 (p 0.074)", "**+3.00** ± 0.00", "+0.00 ± 0.58 (p 1.000)"]
  assert found[4] == ["method", "pairs", *header]
  assert found[5] == ["rfs", "3", "**+1.75** ± 0.38 (p 0.044)", *groups, *groups]
  assert found[6][:4] == ["rfs+copy_paste", "1", "+0.25", "+1.00"]


def test_the_runs_are_described(study):
  found = rows(table.markdown(study, "baseline"))
  assert ["config", "configs/shapes_lt.py:method=rfs", "3"] in found
  assert ["command line", "--config.train.steps=800", "7"] in found
  assert ["commit", "abc", "6"] in found
  assert ["commit", "def", "1"] in found
  machine = "1 x cpu; a processor, 2 cores; jax 1.0, Python 3.11.0"
  assert ["machine", machine, "7"] in found


def test_without_a_baseline_there_are_no_differences(study):
  del study["baseline"]
  text = table.markdown(study, "baseline")
  assert "# Differences" not in text
  assert rows(text)[1][0] == "rfs"


def test_missing_values_are_dashes(content):
  study = {
    "baseline": {0: content("baseline", 0, (1.0, 2.0, None, 4.0), seconds=0.0)},
    "rfs": {0: content("rfs", 0, (1.0, 3.0, None, 4.0)) | {"machine": None, "commit": None}},
  }
  found = rows(table.markdown(study, "baseline"))
  assert found[1] == ["baseline", "1", "-", "1.50", "-", "4.00", "1.50", "-", "4.00", "-"]
  assert found[4] == ["rfs", "1", "-", "+0.50", "-", "+0.00", "+0.50", "-", "+0.00"]
  assert ["commit", "unknown", "1"] in found
