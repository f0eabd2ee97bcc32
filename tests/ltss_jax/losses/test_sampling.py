"""Sampling by matrix products against gathers: values, gradients, and what each platform gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from ltss_jax.losses import mask_criterion, points, sampling, uncertain_points
from ltss_jax.losses.points import Points
from tests import recipes


def random_points(seed, shape, outside=0.3):
  """Points in the maps and around them, borders and corners among them."""
  rng = np.random.default_rng(seed)
  x, y = rng.uniform(-outside, 1 + outside, (2, *shape)).astype(np.float32)
  x[:, :4], y[:, :4] = [0, 1, 0, 1], [0, 0, 1, 1]
  return Points(jnp.asarray(x), jnp.asarray(y))


def test_masks_and_their_gradients_equal_gathers():
  rng, at = np.random.default_rng(0), random_points(1, (2, 300))
  masks = rng.standard_normal((2, 21, 10)).astype(np.float32)
  cotangent = rng.standard_normal((2, 300)).astype(np.float32)

  @jax.jit
  def both(masks, cotangent):
    forms = (
      lambda masks: sampling.sample_masks(masks, at),
      lambda masks: sampling.sample_by_products(masks, at, "interpreted"),
    )
    results = [jax.vjp(form, masks) for form in forms]
    return [(values, transpose(cotangent)[0]) for values, transpose in results]

  (values, gradient), (products, gradient_by_products) = both(masks, cotangent)
  # The corners are the same bits; a product and a sum may become one operation.
  np.testing.assert_allclose(products, values, rtol=0, atol=1e-6)
  # Sums of some ten float32 numbers in another order.
  np.testing.assert_allclose(gradient_by_products, gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_label_values_equal_gathers(several):
  at = random_points(2, (3, 200))
  labels = np.random.default_rng(0).choice(np.array([0, 1, 300, 65535], np.uint16), (2, 9, 13))
  labels, image = points.label_maps(jnp.asarray(labels)), jnp.array([1, 0, 1])
  classes = jnp.array([[0, 300, -1], [65535, 1, 0], [300, 300, 7]])
  classes = classes if several else classes[:, 0]

  @jax.jit
  def both(*inputs):
    return (
      sampling.label_values(*inputs),
      sampling.label_values_by_products(*inputs, "interpreted"),
    )

  values, products = both(labels, image, classes, at)
  assert values.shape == (3, 200, 3)[: 2 + several] and 0 < values.max() <= 1 + 1e-6
  # The same corners; a product and a sum may become one operation.
  np.testing.assert_allclose(products, values, rtol=0, atol=1e-6)


def test_queries_are_sampled_by_deformable_attention_of_one_point():
  mask_logits = np.random.default_rng(0).standard_normal((10, 12, 5)).astype(np.float32)
  at = jax.tree.map(lambda x: x[0], random_points(3, (1, 150)))
  by_products = functools.partial(sampling.sample_queries_by_products, interpret=True)
  products = jax.jit(by_products)(mask_logits, at)
  # Positions are rounded in another way: 1e-7 of 12 pixels, and slopes of up to 4.
  np.testing.assert_allclose(products, sampling.sample_queries(mask_logits, at), atol=5e-6)


def test_points_in_rows_are_the_drawn_ones():
  drawn = points.draw(jax.random.key(0), 500)
  x, y = sampling.points_of_keys(sampling.row_keys(drawn), 500)
  expected = sorted(zip(drawn.y.tolist(), drawn.x.tolist(), strict=True))
  assert list(zip(y.tolist(), x.tolist(), strict=True)) == expected
  assert sampling.in_rows(drawn).x.tolist() == drawn.x.tolist()


def make_loss(config, num_classes):
  def loss(class_logits, mask_logits, targets):
    keys = jax.random.split(jax.random.key(0), 2)
    sums = mask_criterion.criterion_sums(
      config, class_logits, mask_logits, targets, keys, num_classes
    )
    return mask_criterion.total_loss(config, sums)[0]

  return jax.value_and_grad(loss, (0, 1))


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize("ignored_pixels", ["background", "left_out"])
def test_the_criterion_is_the_same_for_tpus(ignored_pixels, monkeypatch):
  """With the same points, in another order; compiled for a CPU, its kernels interpreted."""
  rng = np.random.default_rng(0)
  config = recipes.criterion(num_points=150, ignored_pixels=ignored_pixels, ignore_label=255)
  labels = rng.integers(0, 6, (2, 4, 5), np.uint8).repeat(8, 1).repeat(8, 2)
  labels[:, :9, :11] = 255
  targets = mask_criterion.Targets(labels, np.array([[0, 1, 2, 4], [3, 5, -1, -1]], np.int32))
  logits = [3 * rng.standard_normal(shape) for shape in ((1, 2, 7, 7), (1, 2, 8, 10, 7))]
  arguments = *(x.astype(np.float32) for x in logits), targets
  expected, expected_gradients = jax.jit(make_loss(config, 6))(*arguments)

  # The host's matching, which has no form for TPUs, stays that of CPUs.
  choose = lambda *x, tpu=None, cpu=None, default: (tpu or cpu)(*x)  # noqa: E731
  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  kernel = pl.pallas_call
  monkeypatch.setattr(pl, "pallas_call", lambda *x, **y: kernel(*x, **y | {"interpret": True}))
  value, gradients = jax.jit(make_loss(config, 6))(*arguments)
  # Sums of some hundred float32 numbers in another order.
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for gradient, wanted in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("platform", "gathers"), [("tpu", False), ("cpu", True)])
def test_the_platform_that_a_program_is_lowered_for_decides(platform, gathers):
  """Nothing is gathered or scattered on TPUs, also where gradients are taken."""

  @jax.jit
  @jax.grad
  def program(masks, mask_logits, labels, drawn):
    at = sampling.in_rows(drawn)
    logits = sampling.sample_masks(masks, at)
    at = uncertain_points.choose(at, jax.lax.stop_gradient(logits), drawn, 50)
    image = jnp.zeros(2, jnp.int32)
    values = sampling.label_values(points.label_maps(labels), image, image, at)
    queries = sampling.sample_queries(mask_logits, jax.tree.map(lambda x: x[0], at))
    return jnp.sum(sampling.sample_masks(masks, at) * values) + jnp.sum(logits) + jnp.sum(queries)

  shapes = (2, 16, 16), (16, 16, 7), (2, 64, 64), (2, 100)
  masks, mask_logits, labels, x = (jnp.zeros(shape) for shape in shapes)
  lowered = program.trace(masks, mask_logits, labels, Points(x, x)).lower(
    lowering_platforms=(platform,)
  )
  text = lowered.as_text()
  assert ("tpu_custom_call" in text) is not gathers
  for operation in ("gather", "scatter"):
    assert (f"stablehlo.{operation}" in text) is gathers
