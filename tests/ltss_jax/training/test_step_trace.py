"""Which steps the profiler sees; test_loop.py has it in a training."""

import jax
import pytest

from configs import common
from ltss_jax.training import step_trace

NUM_STEPS = 6


def go(workdir, profile_steps, *, start=0, error_at=None):
  """Steps as the loop takes them, from the one after `start`."""
  options = common.get_config().train
  options.steps, options.profile_steps = NUM_STEPS, profile_steps
  update, x = jax.jit(lambda x: x + 1), None
  with step_trace.StepTrace(options, workdir) as trace:
    for step in range(start + 1, NUM_STEPS + 1):
      trace.before(step, x)
      if step == error_at:
        raise ZeroDivisionError
      with jax.profiler.StepTraceAnnotation("train", step_num=step):
        x = update(0.0)
      trace.after(step, x)


@pytest.mark.parametrize(
  ("profile_steps", "start", "expected"),
  [
    ((), 0, []),
    ((2, 3), 0, [[2, 3]]),
    ((4, 4), 0, [[4]]),
    ((5, 9), 0, [[5, 6]]),  # to the last step
    ((2, 4), 2, [[3, 4]]),  # a run that goes on within them: what is left
    ((2, 4), 4, []),  # and after them
  ],
)
def test_the_named_steps_are_traced_and_no_others(
  tmp_path, caplog, traced_steps, profile_steps, start, expected
):
  go(tmp_path, profile_steps, start=start)
  assert traced_steps(tmp_path) == expected
  assert (tmp_path / "profile").exists() == bool(expected)
  assert not caplog.text


def test_steps_after_the_last_one_are_warned_about(tmp_path, caplog, traced_steps):
  go(tmp_path, (7, 9))
  assert "config.train.profile_steps=(7, 9) begins after the last step" in caplog.text
  assert traced_steps(tmp_path) == []


def test_a_run_that_stops_within_them_keeps_what_was_traced(tmp_path, traced_steps):
  with pytest.raises(ZeroDivisionError):
    go(tmp_path, (2, 5), error_at=4)
  assert traced_steps(tmp_path) == [[2, 3]]
  go(tmp_path, ())  # the profiler is free again
