"""Which weights of a run are meant."""

import jax
import numpy as np
import pytest

from ltss_jax import checkpoint, inference_weights


@pytest.fixture
def workdir(tmp_path):
  """A run whose weights are the step's number; step 2 is the best."""
  with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3) as run:
    for step, miou in ((1, 20.0), (2, 30.0), (3, None)):
      run.save(step, jax.device_put({"params": {"w": np.float32([step])}}), {"n": step}, miou)
  return tmp_path


@pytest.mark.parametrize(("wanted", "expected"), [(-1, 2), (0, 3), (1, 1)])
def test_the_best_the_latest_or_a_number(workdir, wanted, expected):
  step, params, stats = inference_weights.read_run(workdir, wanted)
  assert (step, params["w"].tolist(), stats) == (expected, [expected], {})


def test_the_latest_stands_in_for_the_best_where_that_is_asked_for(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as run:
    run.save(5, jax.device_put({"params": {"w": np.float32([5])}}), {"n": 5})
  assert inference_weights.read_run(tmp_path, -1, or_latest=True)[0] == 5
  with pytest.raises(checkpoint.CheckpointError, match="none there was evaluated in training"):
    inference_weights.read_run(tmp_path, -1)
