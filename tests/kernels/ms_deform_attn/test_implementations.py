"""One test body for all implementations: values and gradients against numpy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import test_util

from kernels.ms_deform_attn import (
  IMPLEMENTATIONS,
  interpreted_pallas,
  ms_deform_attn,
  sharded,
)
from kernels.ms_deform_attn.arg_specs import ARG_SPECS, ArgSpec, make_arguments
from tests.kernels.ms_deform_attn import ms_deform_attn_judge as judge
from tests.programs import GOLDEN

# Largest error by the largest value of the array. float32: a point's place is rounded at 2^-24 of
# the map's width, up to 91 pixels, so 5e-6 pixels, and bilinear weights with it; sums have up to
# 128 terms. bfloat16: results are rounded to 8 bits.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2.0**-8}

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.fixture(autouse=True, scope="module")
def interpreted():
  with interpreted_pallas():
    yield


def draw(spec: ArgSpec, queries: int, seed: int = 0) -> list[np.ndarray]:
  """Random value, locations, weights and cotangent.

  Points lie up to two pixels off the map, some far away, none near a pixel centre, where the
  derivative jumps and its side depends on rounding.
  """
  rng = np.random.default_rng(seed)
  value = rng.normal(size=(spec.batch, spec.length, spec.heads, spec.dim))
  shape = (spec.batch, queries, spec.heads, len(spec.spatial_shapes), spec.points)
  sizes = np.array(spec.spatial_shapes)[:, None, ::-1]  # [L, 1, 2], x first
  pixels = rng.integers(-3, sizes + 2, size=(*shape, 2)) + rng.uniform(0.05, 0.95, (*shape, 2))
  locations = (pixels + 0.5) / sizes
  far = rng.random(shape) < 0.02
  locations[far] *= np.where(rng.random((far.sum(), 1)) < 0.5, 1e4, 1e12)
  arrays = value, locations, rng.normal(size=shape)
  cotangent = rng.normal(size=(*shape[:2], spec.heads * spec.dim))
  return [array.astype(np.float32) for array in (*arrays, cotangent)]


def computed(implementation, spatial_shapes, value, locations, weights, cotangent):
  """Output and gradients of an implementation, named as the judge's."""

  @jax.jit
  def run(value, locations, weights, cotangent):
    def attend(value, *arguments):
      return ms_deform_attn(value, spatial_shapes, *arguments, implementation=implementation)

    output, pull = jax.vjp(attend, value, locations, weights)
    return output, *pull(cotangent)

  names = ("output", "value_gradient", "locations_gradient", "weights_gradient")
  return dict(zip(names, run(value, locations, weights, cotangent), strict=True))


def assert_equal(results, expected, tolerance=TOLERANCE["float32"]):
  for name, result in results.items():
    error = np.abs(np.asarray(result, np.float64) - expected[name])
    scale = max(np.abs(expected[name]).max(initial=0), 1e-30)
    assert error.max(initial=0) <= tolerance * scale, (name, error.max(), scale)


@pytest.mark.parametrize(
  "spec",
  [
    ArgSpec(((5, 7),), batch=1, heads=1, dim=16, points=1),
    ArgSpec(((1, 1), (3, 9)), batch=2, heads=3, dim=32, points=3),
    ArgSpec(((2, 2), (3, 4), (6, 7), (12, 13)), batch=1, heads=1, dim=64, points=8),
  ],
  ids=lambda spec: f"L{len(spec.spatial_shapes)} P{spec.points} D{spec.dim}",
)
def test_values_and_gradients_equal_those_of_numpy(implementation, spec):
  arguments = draw(spec, queries=13)
  results = computed(implementation, spec.spatial_shapes, *arguments)
  assert_equal(results, judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:]))


def test_many_queries_on_odd_maps(implementation):
  """Several blocks of queries, the last one not full."""
  spec = ArgSpec(ARG_SPECS["odd"].spatial_shapes[:2], heads=1, dim=16)
  arguments = draw(spec, queries=4000)
  results = computed(implementation, spec.spatial_shapes, *arguments)
  assert_equal(results, judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:]))


@settings(max_examples=3)
@given(st.data())
def test_random_small_shapes(implementation, data):
  size = st.integers(1, 6)
  spec = ArgSpec(
    tuple(data.draw(st.lists(st.tuples(size, size), min_size=1, max_size=2))),
    batch=data.draw(st.integers(1, 2)),
    heads=data.draw(st.integers(1, 3)),
    dim=data.draw(st.sampled_from([1, 4, 16])),
    points=data.draw(st.integers(1, 2)),
  )
  arguments = draw(spec, data.draw(st.integers(1, 9)), data.draw(st.integers(0, 99)))
  results = computed(implementation, spec.spatial_shapes, *arguments)
  assert_equal(results, judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:]))


def test_pixel_centres_and_borders(implementation):
  """Every centre and edge of a map of powers of two, where the arithmetic is exact."""
  height, width = 4, 8
  x, y = np.meshgrid(np.arange(-3, 2 * width + 4) / 2, np.arange(-3, 2 * height + 4) / 2)
  locations = np.stack([x / width, y / height], axis=-1).reshape(1, -1, 1, 1, 1, 2)
  rng = np.random.default_rng(0)
  queries = locations.shape[1]
  arguments = [
    rng.normal(size=(1, height * width, 1, 16)),
    locations,
    rng.normal(size=(1, queries, 1, 1, 1)),
    rng.normal(size=(1, queries, 16)),
  ]
  arguments = [array.astype(np.float32) for array in arguments]
  results = computed(implementation, ((height, width),), *arguments)
  expected = judge.ms_deform_attn(arguments[0], ((height, width),), *arguments[1:])
  assert_equal(results, expected)
  # On the centre of a pixel stands its value.
  centre = np.flatnonzero((x == 2.5).ravel() & (y == 1.5).ravel())[0]
  weight = arguments[2][0, centre, 0, 0, 0]
  sampled = weight * arguments[0][0, 1 * width + 2, 0]
  np.testing.assert_array_equal(results["output"][0, centre], sampled)


def test_by_hand(implementation):
  """One 2 x 2 map [[1, 2], [3, 4]], one query, weights 1 and 10.

  The first point is the middle of the map: 2.5, with slope (x, y) = (1, 2) per pixel, so (2, 4) per
  width and height. The second lies a quarter pixel right of the centre of pixel (0, 0): 1.25, slope
  (1, 2) per pixel again.
  """
  value = jnp.array([1.0, 2, 3, 4]).reshape(1, 4, 1, 1)
  locations = jnp.array([[0.5, 0.5], [0.375, 0.25]]).reshape(1, 1, 1, 1, 2, 2)
  weights = jnp.array([1.0, 10]).reshape(1, 1, 1, 1, 2)
  results = computed(implementation, ((2, 2),), value, locations, weights, jnp.ones((1, 1, 1)))
  np.testing.assert_allclose(results["output"].ravel(), [15], rtol=1e-6)
  np.testing.assert_allclose(results["weights_gradient"].ravel(), [2.5, 1.25], rtol=1e-6)
  np.testing.assert_allclose(results["locations_gradient"].ravel(), [2, 4, 20, 40], rtol=1e-6)
  by_value = [0.25 + 7.5, 0.25 + 2.5, 0.25, 0.25]
  np.testing.assert_allclose(results["value_gradient"].ravel(), by_value, rtol=1e-6)


def test_bfloat16_values_are_accumulated_in_float32(implementation):
  spec = ArgSpec(((5, 7),), batch=1, heads=2, dim=32, points=4)
  value, locations, weights, cotangent = draw(spec, queries=13)
  value, cotangent = (jnp.asarray(array, jnp.bfloat16) for array in (value, cotangent))
  arguments = value, locations, weights, cotangent
  results = computed(implementation, spec.spatial_shapes, *arguments)
  expected = judge.ms_deform_attn(value, spec.spatial_shapes, *arguments[1:])
  assert_equal(results, expected, TOLERANCE["bfloat16"])
  assert results["output"].dtype == results["value_gradient"].dtype == jnp.bfloat16
  # What is not stored in bfloat16 is as precise as with float32 values.
  assert results["locations_gradient"].dtype == jnp.float32
  assert_equal({k: results[k] for k in ("locations_gradient", "weights_gradient")}, expected)


def test_locations_that_are_no_number_stay_alone(implementation):
  """They read nothing, inside or outside the arrays, and other queries are as before."""
  spec = ArgSpec(((5, 7),), batch=1, heads=1, dim=16, points=2)
  arguments = draw(spec, queries=4)
  broken = arguments.copy()
  broken[1] = arguments[1].copy()
  broken[1][0, 2, :, :, 0] = np.nan
  broken[1][0, 2, :, :, 1] = np.inf
  whole, results = (computed(implementation, ((5, 7),), *a) for a in (arguments, broken))
  np.testing.assert_array_equal(results["output"][0, 2], 0)
  others = np.array([0, 1, 3])
  np.testing.assert_array_equal(results["output"][:, others], whole["output"][:, others])


def test_gradients_equal_finite_differences(implementation):
  spec = ArgSpec(((3, 4),), batch=1, heads=2, dim=8, points=2)
  with jax.enable_x64(True):
    value, locations, weights, _ = (jnp.asarray(a, jnp.float64) for a in draw(spec, queries=5))
    # Points far away would need other steps.
    locations = jnp.where(jnp.abs(locations) > 100, 0.31, locations)

    @jax.jit
    def attend(value, *arguments):
      return ms_deform_attn(value, spec.spatial_shapes, *arguments, implementation=implementation)

    # Second-order errors of steps of 1e-4 are 1e-8, and round-off 1e-16 / 1e-4.
    test_util.check_grads(
      attend, (value, locations, weights), 1, modes=["rev"], eps=1e-4, rtol=1e-6
    )


def test_golden_file_of_torch(implementation):
  golden = dict(np.load(GOLDEN / "ms_deform_attn.npz"))
  shapes = tuple(map(tuple, golden.pop("spatial_shapes").tolist()))
  arguments = [golden[name] for name in ("value", "locations", "weights", "cotangent")]
  assert_equal(computed(implementation, shapes, *arguments), golden)


def test_torch(implementation):
  pytest.importorskip("torch")
  import ms_deform_attn_torch

  spec = ArgSpec(((8, 12), (1, 5)), batch=2, heads=2, dim=16, points=5)
  arguments = draw(spec, queries=40, seed=1)
  expected = ms_deform_attn_torch.with_gradients(spec.spatial_shapes, *arguments)
  # torch computes in float32 too.
  assert_equal(computed(implementation, spec.spatial_shapes, *arguments), expected, 4e-5)


@pytest.mark.parametrize("spread", [None, 3.0])
def test_named_arguments(implementation, spread):
  """The arguments that benchmarks use are valid, and the result is the reference's."""
  spec = ARG_SPECS["tiny"]
  arguments = make_arguments(spec, spread=spread)
  np.testing.assert_allclose(arguments[2].sum((-2, -1)), 1, rtol=1e-6)
  output = ms_deform_attn(
    arguments[0], spec.spatial_shapes, *arguments[1:], implementation=implementation
  )
  cotangent = np.zeros(output.shape)
  expected = judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:], cotangent)
  assert_equal({"output": output}, expected)


@pytest.mark.parametrize("empty", ["queries", "points", "images"])
def test_empty_arrays(implementation, empty):
  batch, queries, points = (int(empty != name) for name in ("images", "queries", "points"))
  shape = (batch, queries, 2, 1, points)
  arguments = [np.zeros((batch, 6, 2, 4)), np.zeros((*shape, 2)), np.zeros(shape)]
  arguments = [array.astype(np.float32) for array in arguments]
  cotangent = np.zeros((batch, queries, 8), np.float32)
  results = computed(implementation, ((2, 3),), *arguments, cotangent)
  assert results["output"].shape == (batch, queries, 8)
  assert [g.shape for g in list(results.values())[1:]] == [a.shape for a in arguments]
  assert not any(np.any(result) for result in results.values())


@pytest.mark.parametrize("axes", [(("data", "model"), None), ("data", "model")])
def test_each_device_works_on_its_own_images(implementation, axes):
  """Under a sharded jit the compiled program, gradients included, moves nothing."""
  mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  batch_axis, head_axis = axes
  if head_axis is not None and IMPLEMENTATIONS[implementation].backend is None:
    pytest.skip("the compiler divides images by itself, but gathers heads")
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(batch_axis, None, head_axis)
  )
  spec = ArgSpec(((4, 6),), batch=4, heads=2, dim=16, points=2)
  arguments = draw(spec, queries=30)

  def run(*arguments):
    with sharded(mesh, batch_axis=batch_axis, head_axis=head_axis):
      return computed(implementation, spec.spatial_shapes, *arguments)

  run = jax.jit(run, out_shardings=sharding)
  compiled = run.lower(*(jax.device_put(a, sharding) for a in arguments)).compile()
  program = compiled.as_text()
  moves = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
  assert not [move for move in moves if move in program]
  results = compiled(*(jax.device_put(a, sharding) for a in arguments))
  assert_equal(results, judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:]))


def test_inside_a_shard_map(implementation):
  """Prediction runs the model per device, where loops have to start from a shard's own values."""
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = ArgSpec(((4, 6),), batch=4, heads=2, dim=16, points=2)
  arguments = draw(spec, queries=30)
  per_image = jax.sharding.PartitionSpec("data")
  run = jax.jit(
    jax.shard_map(
      lambda *a: computed(implementation, spec.spatial_shapes, *a),
      mesh=mesh,
      in_specs=(per_image,) * len(arguments),
      out_specs=per_image,
      # What the interpreter of Pallas does not support (JAX 0.10); compiled kernels do.
      check_vma=IMPLEMENTATIONS[implementation].backend is None,
    )
  )
  expected = judge.ms_deform_attn(arguments[0], spec.spatial_shapes, *arguments[1:])
  assert_equal(run(*arguments), expected)
