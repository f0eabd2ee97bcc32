"""Checks of arguments, the choice of the implementation, and what the default needs."""

import contextlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.ms_deform_attn import aot_gpu, available, choose, ms_deform_attn
from kernels.ms_deform_attn.arg_specs import ARG_SPECS
from tests import programs

SHAPES = ((2, 3), (4, 6))


def arguments(**changes):
  arrays = {
    "value": np.zeros((2, 30, 4, 8), np.float32),
    "spatial_shapes": SHAPES,
    "sampling_locations": np.zeros((2, 7, 4, 2, 3, 2), np.float32),
    "attention_weights": np.zeros((2, 7, 4, 2, 3), np.float32),
  }
  return arrays | changes


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"value": np.zeros((2, 30, 32), np.float32)}, r"value must be \[B, S, H, D\].*\(2, 30, 32\)"),
    ({"value": np.zeros((2, 30, 4, 8), np.int32)}, "value must be floating point, got int32"),
    ({"spatial_shapes": ((2, 3),)}, r"30 positions .*\(\(2, 3\),\) have 6"),
    ({"spatial_shapes": ((5, 6), (0, 6))}, "positive"),
    (
      {"spatial_shapes": ((5, 6),)},
      r"attention_weights .*\(2, 7, 4, 1, 3\).*got \(2, 7, 4, 2, 3\)",
    ),
    ({"attention_weights": np.zeros((1, 7, 4, 2, 3), np.float32)}, "attention_weights must be"),
    (
      {"sampling_locations": np.zeros((2, 7, 4, 2, 3, 3), np.float32)},
      r"sampling_locations must be .*\(2, 7, 4, 2, 3, 2\).*got \(2, 7, 4, 2, 3, 3\)",
    ),
    ({"implementation": "cuda"}, "no implementation 'cuda'; choose one of .*'xla'"),
  ],
)
def test_arguments_that_do_not_belong_together(changes, message):
  with pytest.raises(ValueError, match=message):
    ms_deform_attn(**arguments(**changes))


def test_spatial_shapes_must_be_static():
  with pytest.raises(ValueError, match="spatial_shapes must be Python integers"):
    ms_deform_attn(**arguments(spatial_shapes=jnp.array(SHAPES)))


@pytest.mark.parametrize(("name", "needs"), [("pallas_tpu", "tpu"), ("pallas_gpu", "gpu")])
def test_a_kernel_for_another_backend_is_refused(name, needs):
  """The message says what it needs, what there is, and what runs here."""
  assert name not in available()
  message = f"{name!r} needs the backend {needs!r}, and JAX runs on 'cpu' here; choose .*'xla'"
  with pytest.raises(ValueError, match=message):
    ms_deform_attn(**arguments(implementation=name))
  with pytest.raises(ValueError, match=message):
    choose(name)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
  ("platform", "target"), [("tpu", "tpu_custom_call"), ("cuda", "triton"), ("cpu", None)]
)
def test_the_platform_that_a_program_is_lowered_for_decides(platform, target):
  """Forward and backward, wherever the program is traced."""
  arrays = arguments()
  shapes = arrays.pop("spatial_shapes")

  def loss(value, locations, weights):
    return ms_deform_attn(value, shapes, locations, weights).sum()

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  with aot_gpu.lowering() if platform == "cuda" else contextlib.nullcontext():
    program = gradient.trace(*arrays.values()).lower(lowering_platforms=(platform,)).as_text()
  kernels = {name for name in ("tpu_custom_call", "triton") if name in program}
  assert kernels == ({target} if target else set())


_PROGRAM = """
import importlib.util
import jax
import numpy as np
from kernels.ms_deform_attn import aot_gpu, available, choose, ms_deform_attn
value, points = np.zeros((2, 30, 4, 8), np.float32), np.zeros((2, 7, 4, 2, 3), np.float32)

@jax.jit
@jax.grad
def gradient(value, locations, weights):
  return ms_deform_attn(value, ((2, 3), (4, 6)), locations, weights).sum()

with aot_gpu.lowering():
  traced = gradient.trace(value, np.zeros((*points.shape, 2), np.float32), points)
  program = traced.lower(lowering_platforms=("cuda",)).as_text()
"""


def run_in_new_process(code, *options, path=""):
  programs.run(*options, "-c", code, env=programs.environment(PYTHONPATH=str(path)), check=True)


def test_the_announced_end_of_a_backend_is_no_warning_of_ours():
  """Whatever a user does with warnings, programs for GPUs are made."""
  code = _PROGRAM + 'assert "triton" in program'
  run_in_new_process(code, "-W", "error:The Pallas Triton backend is:DeprecationWarning")


def link_all_but(left_out, origin, copy):
  """A folder of links to all in `origin` but those whose paths in it are left out."""
  copy.mkdir()
  for path in origin.iterdir():
    within = [place.relative_to(path.name) for place in left_out if place.parts[0] == path.name]
    if not within:
      (copy / path.name).symlink_to(path)
    elif all(place.parts for place in within):
      link_all_but(within, path, copy / path.name)


def test_without_the_backend_of_the_gpu_kernels_gpus_run_plain_jax(tmp_path):
  """A JAX whose folder has no such backend, neither the public module nor what is behind it."""
  origin = pathlib.Path(jax.__file__).parent
  gone = [pathlib.Path("experimental/pallas/triton.py"), pathlib.Path("_src/pallas/triton")]
  assert all((origin / place).exists() for place in gone)
  link_all_but(gone, origin, tmp_path / "jax")
  code = (
    _PROGRAM
    + """
assert importlib.util.find_spec("jax.experimental.pallas.triton") is None
assert "triton" not in program and "stablehlo.scatter" in program
assert "pallas_gpu" not in available() and choose() == "xla"
try:
  choose("pallas_gpu")
except ValueError as error:
  message = str(error)
  assert f"the Triton backend of Pallas, which jax {jax.__version__} does not have" in message
  assert "choose one of ('xla', 'reference')" in message
else:
  raise SystemExit("no error")
"""
  )
  run_in_new_process(code, path=tmp_path)


def test_the_portable_implementation_is_the_default():
  assert choose() == available()[0] == "xla"
  assert choose("reference") == available()[-1] == "reference"
  assert ms_deform_attn(**arguments()).shape == (2, 7, 32)


def test_the_default_never_holds_all_corner_rows():
  """Forward and backward at crop 512 need a fraction of the 264 MB of `[B, Q, H, K, D]`."""
  spec = ARG_SPECS["crop_512"]
  points = (1, spec.length, spec.heads, len(spec.spatial_shapes), spec.points)
  shapes = [(1, spec.length, spec.heads, spec.dim), (*points, 2), points]

  def loss(value, locations, weights):
    return jnp.sum(ms_deform_attn(value, spec.spatial_shapes, locations, weights) ** 2)

  lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(
    *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
  )
  temporary = lowered.compile().memory_analysis().temp_size_in_bytes
  rows = 4 * spec.length * spec.heads * 48 * spec.dim
  assert temporary < rows / 4
