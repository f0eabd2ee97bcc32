"""Checks of arguments, the choice of the implementation, and what the default needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.ms_deform_attn import available, choose, ms_deform_attn
from kernels.ms_deform_attn.arg_specs import ARG_SPECS

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
  program = gradient.trace(*arrays.values()).lower(lowering_platforms=(platform,)).as_text()
  kernels = {name for name in ("tpu_custom_call", "triton") if name in program}
  assert kernels == ({target} if target else set())


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
