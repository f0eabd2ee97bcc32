import pathlib

import pytest

from configs import variants
from ltss_jax.study import plan

SHAPES = str(pathlib.Path(variants.__file__).with_name("shapes_lt.py"))


@pytest.mark.parametrize(
  ("methods", "seeds", "expected"),
  [
    ("baseline,rfs", None, {"baseline": (0, 1, 2), "rfs": (0, 1, 2)}),
    ("baseline:5, rfs:1", None, {"baseline": (0, 1, 2, 3, 4), "rfs": (0,)}),
    ("baseline,rfs:2", (7, 3, 9), {"baseline": (7, 3, 9), "rfs": (7, 3)}),
    ("copy_paste+rfs", (0,), {"rfs+copy_paste": (0,)}),
  ],
)
def test_methods_and_seeds(methods, seeds, expected):
  assert plan.parse_methods(methods, seeds) == expected


@pytest.mark.parametrize(
  ("methods", "message"),
  [
    (
      "baseline,rsf",
      "--methods=baseline,rsf: unknown value 'rsf' of variant 'method'; nearest valid: 'rfs';"
      " valid: baseline, rfs, copy_paste, seesaw, frequency_matcher",
    ),
    (
      "rfs+copy_paste,copy_paste+rfs",
      "--methods=rfs+copy_paste,copy_paste+rfs names 'rfs+copy_paste' twice; name it once",
    ),
    ("rfs:0", "--methods: 'rfs:0' does not end with a number of seeds of at least 1, as in rfs:3"),
    ("rfs:x", "--methods: 'rfs:x' does not end with a number of seeds of at least 1, as in rfs:3"),
    ("rfs:4", "--methods: 'rfs:4' wants 4 seeds, but --seeds names 2; name more"),
  ],
)
def test_wrong_methods(methods, message):
  with pytest.raises(ValueError) as raised:
    plan.parse_methods(methods, (0, 1))
  assert str(raised.value) == message


def test_seeds():
  assert plan.parse_seeds("3, 0,12") == (3, 0, 12)


@pytest.mark.parametrize(
  ("seeds", "message"),
  [
    ("0,a", "--seeds=0,a: 'a' is no whole number of at least 0, as in --seeds=0,1,2"),
    ("-1", "--seeds=-1: '-1' is no whole number of at least 0, as in --seeds=0,1,2"),
    ("", "--seeds=: '' is no whole number of at least 0, as in --seeds=0,1,2"),
    ("1,2,1", "--seeds=1,2,1 names a seed twice; name it once"),
  ],
)
def test_wrong_seeds(seeds, message):
  with pytest.raises(ValueError) as raised:
    plan.parse_seeds(seeds)
  assert str(raised.value) == message


def test_runs_are_ordered_by_seed():
  runs = plan.schedule({"rfs": (0, 1), "baseline": (0, 1, 2), "seesaw": (0,)})
  assert [run.name for run in runs] == [
    "rfs_0",
    "baseline_0",
    "seesaw_0",
    "rfs_1",
    "baseline_1",
    "baseline_2",
  ]


def test_reports_start_with_the_baseline_and_end_with_combinations():
  methods = ["rfs+copy_paste", "seesaw", "rfs+copy_paste+seesaw", "baseline", "rfs"]
  assert sorted(methods, key=plan.sort_key) == [
    "baseline",
    "rfs",
    "seesaw",
    "rfs+copy_paste",
    "rfs+copy_paste+seesaw",
  ]


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("a.py", "a.py:method=rfs"),
    ("a.py:", "a.py:method=rfs"),
    ("a.py:model=deeplabv3plus,", "a.py:model=deeplabv3plus,method=rfs"),
  ],
)
def test_config_of_a_run(given, expected):
  assert plan.config_argument(given, "rfs") == expected


def test_every_method_is_checked_before_the_first_run():
  plan.check_configs(SHAPES, {"train.steps": 8}, list(variants.VARIANTS["method"]))
  given = f"{SHAPES}:model=deeplabv3plus"
  plan.check_configs(given, {}, ["baseline", "rfs", "seesaw"])
  with pytest.raises(ValueError, match=r"method 'frequency_matcher' does not fit: config\.loss\."):
    plan.check_configs(given, {}, ["baseline", "frequency_matcher"])
  with pytest.raises(ValueError, match=r"'copy_paste' does not fit: .*copy_paste_min_scale=2\.0"):
    plan.check_configs(SHAPES, {"data.copy_paste_min_scale": 2.0}, ["copy_paste"])


def test_what_the_study_chooses_is_not_chosen_twice():
  with pytest.raises(ValueError, match=r":method=rfs chooses a method; leave it to --methods"):
    plan.check_configs(f"{SHAPES}:method=rfs", {}, ["rfs"])
  with pytest.raises(ValueError, match=r"--config\.seed=1 is given; leave it to --seeds"):
    plan.check_configs(SHAPES, {"seed": 1}, ["rfs"])
