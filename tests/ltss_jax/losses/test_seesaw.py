"""The Seesaw loss against its definition in numpy, and in its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses import seesaw

P, Q = 1.2, 1.0


def seesaw_loss(logits, label, counts, p, q):
  return seesaw.Seesaw(seesaw_p=p, seesaw_q=q)(logits, label, counts)[0]


def reference_factors(logits, label, counts, p=P, q=Q):
  """S_ij of one sample, from the definition, in float64."""
  probability = np.exp(logits - logits.max(), dtype=np.float64)
  probability /= probability.sum()
  factors = np.ones(len(logits))
  for j in range(len(logits)):
    n_j, n_i = max(counts[j], 1), max(counts[label], 1)
    if n_j < n_i:
      factors[j] *= (n_j / n_i) ** p
    ratio = probability[j] / max(probability[label], 0.01)
    if ratio > 1:
      factors[j] *= ratio**q
  return factors


def reference(logits, label, counts, p=P, q=Q):
  """(loss, gradient) of one sample: the factors are constants."""
  logits = np.asarray(logits, np.float64)
  scaled = np.exp(logits) * reference_factors(logits, label, counts, p, q)
  gradient = scaled / scaled.sum()
  loss = -np.log(gradient[label])
  gradient[label] -= 1
  return loss, gradient


def test_five_steps_equal_the_definition():
  """Counts grow before the loss of every step, as in training."""
  rng = np.random.default_rng(0)
  ours = theirs = np.zeros(7)
  step = jax.jit(jax.value_and_grad(lambda x, label, n: seesaw_loss(x, label, n, P, Q).sum()))
  for _ in range(5):
    label = rng.choice(7, 20, p=[0.5, 0.25, 0.15, 0.07, 0.02, 0.01, 0])
    logits = 3 * rng.standard_normal((20, 7)).astype(np.float32)
    ours = ours + np.bincount(label, minlength=7)
    for i in label:
      theirs = theirs + (np.arange(7) == i)
    np.testing.assert_array_equal(ours, theirs)
    value, gradient = step(logits, label, ours.astype(np.float32))
    expected = [reference(row, i, theirs) for row, i in zip(logits, label, strict=True)]
    # Round-off of float32 logarithms and exponentials.
    np.testing.assert_allclose(value, sum(loss for loss, _ in expected), rtol=1e-5)
    np.testing.assert_allclose(gradient, [g for _, g in expected], atol=2e-6)


def test_by_hand():
  # p = (1/8, 1/2, 3/8), label 0. M = (1, (1/4)^1, 1), C = (1, 4, 3): S = (1, 1, 3).
  logits, counts = np.log([1.0, 4.0, 3.0]), np.array([8.0, 2.0, 9.0])
  factors = seesaw.log_factors(jnp.array(logits), jnp.array(0), jnp.array(counts), 1.0, 1.0)
  np.testing.assert_allclose(np.exp(factors), [1, 1, 3], rtol=1e-5)  # float32 logarithms
  loss = seesaw_loss(jnp.array(logits), jnp.array(0), jnp.array(counts), 1.0, 1.0)
  np.testing.assert_allclose(loss, np.log(1 + 4 + 9), rtol=1e-6)


def test_the_floor_by_hand():
  # p = (0.1, 0.4, 2, 97.5) %, label 0, so the floor of 1 % stands for p_i. The ratio of class 1 is
  # 0.4 and no factor, although p_1 > p_0; those of the others are 2 and 97.5.
  logits = np.log([1.0, 4.0, 20.0, 975.0])
  factors = seesaw.log_factors(jnp.array(logits), jnp.array(0), jnp.zeros(4), 1.0, 1.0)
  np.testing.assert_allclose(np.exp(factors), [1, 1, 2, 97.5], rtol=1e-5)  # float32 logarithms
  loss = seesaw_loss(jnp.array(logits), jnp.array(0), jnp.zeros(4), 1.0, 1.0)
  np.testing.assert_allclose(loss, np.log(1 + 4 + 2 * 20 + 97.5 * 975), rtol=1e-6)


def test_many_classes_and_small_logits_equal_the_definition():
  """At the start of a training hardly a class of 847 has a probability of 1 %."""
  rng = np.random.default_rng(2)
  logits = 0.3 * rng.standard_normal((12, 847)).astype(np.float32)
  logits[6:, :2] += [6, 7]  # half of the samples have two wrong answers that are compensated
  label, counts = rng.integers(2, 847, 12), np.zeros(847)
  value, gradient = jax.value_and_grad(lambda x: seesaw_loss(x, label, counts, 0, Q).sum())(logits)
  expected = [reference(row, i, counts, 0, Q) for row, i in zip(logits, label, strict=True)]
  # Round-off of float32 sums of 847 exponentials.
  np.testing.assert_allclose(value, sum(loss for loss, _ in expected), rtol=1e-5)
  np.testing.assert_allclose(gradient, [g for _, g in expected], atol=2e-6)
  # Nothing to compensate for and no counts: the cross-entropy.
  plain = jax.nn.logsumexp(logits[:6], axis=-1) - logits[np.arange(6), label[:6]]
  found = seesaw_loss(logits[:6], label[:6], counts, 0, Q)
  np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_without_exponents_it_is_cross_entropy():
  logits = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32)
  label, counts = np.arange(9) % 5, np.arange(5.0)
  plain = -jax.nn.log_softmax(logits)[np.arange(9), label]
  np.testing.assert_allclose(seesaw_loss(logits, label, counts, 0, 0), plain, rtol=1e-6)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 5, 1e12]])
def test_classes_without_a_sample_and_extreme_logits_stay_finite(counts):
  logits = jnp.array([[1e4, -1e4, 0], [0, 0, 0], [-1e4, 1e4, 1e4]])
  label = jnp.array([1, 0, 0])

  def total(logits):
    return seesaw_loss(logits, label, jnp.array(counts), P, Q).sum()

  value, gradient = jax.value_and_grad(total)(logits)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_it_computes_in_float32():
  logits = jnp.array([[1.0, 2.0, 3.0]], jnp.bfloat16)
  label, counts = jnp.array([0]), jnp.array([4.0, 2.0, 1.0])
  loss = seesaw_loss(logits, label, counts, P, Q)
  assert loss.dtype == jnp.float32
  np.testing.assert_array_equal(loss, seesaw_loss(logits.astype(jnp.float32), label, counts, P, Q))
