"""Functions of the host in compiled programs, and in programs that another process compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses import host_function
from tests import programs


def weighted_sums(values, weights):
  if weights.min(initial=0) < 0:
    raise ValueError("weights are negative")
  return (values * weights).sum(1)


host_function.register("test_weighted_sums", weighted_sums)


@jax.jit
def call(values, weights):
  answer = jax.ShapeDtypeStruct(values.shape[:1], jnp.float32)
  return 2 * jax.ffi.ffi_call("test_weighted_sums", answer)(values + 1, weights)


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (3, 0), (0, 4), (200, 500)])
def test_a_program_gets_what_the_function_returns(shape):
  values = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
  weights = np.arange(shape[1], dtype=np.int32)
  np.testing.assert_array_equal(call(values, weights), 2 * weighted_sums(values + 1, weights))


def test_what_the_function_raises_is_the_programs_error():
  with pytest.raises(Exception, match="ValueError: weights are negative"):
    jax.block_until_ready(call(np.ones((2, 2), np.float32), np.array([1, -1], np.int32)))
  assert call(np.ones((1, 1), np.float32), np.array([3], np.int32)) == 12


def test_the_structures_are_of_the_version_that_jaxlib_has():
  with open(f"{jax.ffi.include_dir()}/xla/ffi/api/c_api.h") as file:
    header = file.read()
  major, minor = (
    int(re.search(rf"define XLA_FFI_API_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR")
  )
  assert major == host_function._API_VERSION[0] and minor >= host_function._API_VERSION[1]


PROGRAM = """
import jax, numpy as np
from jax import monitoring
from ltss_jax.losses import matching

events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[-1]))
solve = jax.jit(lambda costs, repeats: matching.match(costs, repeats, "scipy", 3))
costs = np.random.default_rng(0).random((2, 4, 3), np.float32)
print(solve(costs, np.ones((2, 3), np.int32)).tolist(), "cache_hits" in events)
"""


def test_another_process_runs_a_program_that_was_kept(tmp_path):
  env = programs.environment(
    JAX_COMPILATION_CACHE_DIR=str(tmp_path), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
  )
  first, second = (
    programs.run("-c", PROGRAM, env=env, check=True).stdout.rsplit(maxsplit=1) for _ in range(2)
  )
  assert first[0] == second[0] and (first[1], second[1]) == ("False", "True")
