"""The two complete runs that the README prints, from raw data to the table (slow)."""

import json
import os
import pathlib
import re

import pytest

from tests import programs

CAMVID = programs.REPOSITORY / "../shared/camvid_small"
CAMVID = pathlib.Path(os.environ.get("LTSS_CAMVID_SMALL", CAMVID))

pytestmark = pytest.mark.slow


def results(workdir, *arguments):
  """The last results of a run from its beginning, and its log."""
  env = programs.environment(XLA_FLAGS=None)  # compiled as users' programs are
  process = programs.run("main.py", f"--workdir={workdir}", *arguments, env=env, check=True)
  last = max((workdir / "eval").glob("*.json"), key=lambda path: int(path.stem))
  return json.loads(last.read_text()), process.stderr


@pytest.mark.parametrize("variant", ["mask2former", "deeplabv3plus"])
def test_demo_learns_and_shows_the_long_tail(tmp_path, variant):
  record, log = results(
    tmp_path / "run",
    f"--config=configs/shapes_lt.py:model={variant}",
    f"--config.data.dir={tmp_path}",
  )
  assert record["mIoU"] >= 40
  # Rare classes are hard, but can be learnt; the methods for long tails have something to improve.
  assert 3 <= record["image_level"]["rare"] <= 25
  assert record["image_level"]["rare"] < record["image_level"]["frequent"] - 20
  waits = [float(share) for share in re.findall(r"data wait (\S+) %", log)]
  assert sorted(waits)[len(waits) // 2] < 5


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs a folder of street photographs")
def test_photographs_from_random_weights(tmp_path):
  record, _ = results(
    tmp_path / "run",
    "--config=configs/folder.py",
    f"--config.data.root={CAMVID}",
    f"--config.data.dir={tmp_path}",
  )
  assert record["mIoU"] >= 40
