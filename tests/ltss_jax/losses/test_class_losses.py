"""Class losses by hand, against numpy, and on what is empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses import class_losses
from tests import class_loss_reference, recipes

COUNTS = np.array([900, 40, 3, 0, 12])
# Every loss but Seesaw, with settings that leave no factor at 1.
LOSSES = {
  name: recipes.class_loss(
    name, COUNTS, logit_adjustment_tau=1.5, class_balanced_beta=0.99, focal_gamma=1.5
  )
  for name in class_losses.CLASS_LOSSES
  if name != "seesaw"
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def reference(loss, logits, label):
  return np.prod(class_loss_reference.of_prediction(loss, logits, label))


def product(loss, logits, label):
  value, weight = loss(logits, label)
  return value * weight


def test_cross_entropy_by_hand():
  logits = jnp.log(jnp.array([[1.0, 2, 5], [1, 2, 5]]))
  value, weight = recipes.CROSS_ENTROPY(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(value, [np.log(8), np.log(8 / 5)], rtol=1e-6)
  np.testing.assert_array_equal(weight, [1, 1])


def test_cross_entropy_is_the_textbook_expression_bit_by_bit():
  logits = jax.random.normal(jax.random.key(0), (50, 7)) * 10
  label = jax.random.randint(jax.random.key(1), (50,), 0, 7)
  value, _ = recipes.CROSS_ENTROPY(logits, label)
  picked = jnp.take_along_axis(logits, label[:, None], axis=-1)[:, 0]
  np.testing.assert_array_equal(value, jax.nn.logsumexp(logits, axis=-1) - picked)


def test_balanced_softmax_by_hand():
  loss = recipes.class_loss("balanced_softmax", counts=np.array([8, 1, 1]))
  np.testing.assert_allclose(np.exp(loss.log_prior), [2.4, 0.3, 0.3], rtol=1e-6)
  logits = jnp.log(jnp.array([[1.0, 2, 5], [1, 2, 5]]))
  # Exponentials times the priors: 2.4, 0.6, 1.5, together 4.5.
  value, weight = loss(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(value, [np.log(4.5 / 2.4), np.log(3)], rtol=1e-6)
  np.testing.assert_array_equal(weight, [1, 1])


def test_logit_adjustment_by_hand():
  loss = recipes.class_loss(
    "logit_adjustment", counts=np.array([8, 1, 1]), logit_adjustment_tau=2.0
  )
  logits = jnp.log(jnp.array([1.0, 2, 5]))
  # Times the squared priors: 5.76, 0.18, 0.45, together 6.39.
  value, _ = loss(logits, jnp.array(2))
  np.testing.assert_allclose(value, np.log(6.39 / 0.45), rtol=1e-6)


def test_class_balanced_by_hand():
  # Effective numbers / (1 - beta): 1/2, 3/4, 7/8; inverse 42, 28, 24 (/ 21), mean 94/3.
  loss = recipes.class_loss("class_balanced", counts=np.array([1, 2, 3]), class_balanced_beta=0.5)
  np.testing.assert_allclose(loss.class_weights, [63 / 47, 42 / 47, 36 / 47], rtol=1e-6)
  logits = jnp.log(jnp.array([1.0, 2, 5]))
  value, weight = loss(logits, jnp.array(1))
  np.testing.assert_allclose((value, weight), (np.log(4), 42 / 47), rtol=1e-6)


def test_focal_by_hand():
  loss = recipes.class_loss("focal", focal_gamma=2.0)
  value, _ = loss(jnp.log(jnp.array([1.0, 2, 5])), jnp.array(0))
  np.testing.assert_allclose(value, (7 / 8) ** 2 * np.log(8), rtol=1e-6)


def test_no_object_has_the_average_prior_and_the_weight_1():
  logits = jnp.log(jnp.array([1.0, 2, 5, 2]))
  loss = recipes.class_loss("balanced_softmax", counts=np.array([8, 1, 1]))
  # 2.4, 0.6, 1.5, and 2 as it is: together 6.5.
  value, _ = loss(logits, jnp.array(3))
  np.testing.assert_allclose(value, np.log(6.5 / 2), rtol=1e-6)
  loss = recipes.class_loss("class_balanced", counts=np.array([1, 2, 3]), class_balanced_beta=0.5)
  assert loss(logits, jnp.array(3))[1] == 1


@every_loss
@pytest.mark.parametrize("outputs", [5, 6])
def test_values_and_gradients_are_those_of_numpy(name, outputs):
  loss, rng = LOSSES[name], np.random.default_rng(0)
  logits = rng.normal(scale=3, size=(8, outputs)).astype(np.float32)
  label = rng.integers(0, outputs, 8)
  values = product(loss, logits, label)
  gradient = jax.grad(lambda x: product(loss, x, label).sum())(logits)
  step = 1e-6 * np.eye(outputs)
  for i in range(len(logits)):
    # A difference of float32 numbers of about 10.
    expected = reference(loss, logits[i], label[i])
    np.testing.assert_allclose(values[i], expected, rtol=3e-6, atol=2e-6)
    slope = [
      reference(loss, logits[i] + d, label[i]) - reference(loss, logits[i] - d, label[i])
      for d in step
    ]
    # Central differences of float64 are good to 1e-9, float32 to 1e-6 of the largest term.
    np.testing.assert_allclose(gradient[i], np.array(slope) / 2e-6, rtol=2e-5, atol=5e-6)


@every_loss
def test_bfloat16_logits_are_computed_in_float32(name):
  logits = jax.random.normal(jax.random.key(0), (20, 5), jnp.bfloat16)
  label = jnp.arange(20) % 5
  value, weight = LOSSES[name](logits, label)
  assert value.dtype == weight.dtype == jnp.float32
  exact, _ = LOSSES[name](logits.astype(jnp.float32), label)
  np.testing.assert_array_equal(value, exact)


@every_loss
def test_certain_answers_right_and_wrong_are_finite_and_not_negative(name):
  logits = jnp.array([[200.0, 0, 0, 0, 0], [0, 0, 0, 200.0, 0], [0, 0, 0, 0, 0]])
  for loss in (LOSSES[name], recipes.class_loss(name, counts=COUNTS, focal_gamma=0.5)):
    for label in range(5):
      chosen = jnp.full(3, label)
      value, gradient = jax.value_and_grad(lambda x: product(loss, x, chosen).sum())(logits)  # noqa: B023
      assert np.isfinite(value) and np.isfinite(gradient).all()
      # Hard pixel mining orders values by their bits, which a sign would spoil, that of -0 too.
      assert not np.signbit(product(loss, logits, chosen)).any()


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("class_balanced", "class_weights"),
    ("balanced_softmax", "log_prior"),
    ("logit_adjustment", "log_prior"),
  ],
)
def test_a_class_without_samples_is_as_rare_as_the_rarest(name, values):
  with_zero, with_least = (
    getattr(recipes.class_loss(name, counts=np.array(counts)), values)
    for counts in ([50, 0, 4], [50, 4, 4])
  )
  np.testing.assert_array_equal(with_zero, with_least)
  assert np.isfinite(with_zero).all()


@pytest.mark.parametrize("counts", [np.zeros(4), np.full(4, 7)])
def test_equal_or_no_counts_are_the_cross_entropy(counts):
  logits, label = jax.random.normal(jax.random.key(0), (9, 4)), jnp.arange(9) % 4
  expected = product(recipes.CROSS_ENTROPY, logits, label)
  for name in ("class_balanced", "balanced_softmax", "logit_adjustment"):
    loss = recipes.class_loss(name, counts=counts)
    np.testing.assert_allclose(product(loss, logits, label), expected, rtol=1e-6)


def test_limits_of_the_class_balanced_weights():
  counts = np.array([1, 10, 100])
  np.testing.assert_array_equal(class_losses.class_balanced_weights(counts, 0.0), [1, 1, 1])
  # Towards beta = 1 the inverse counts; the next term is (1 - beta) n / 2.
  inverse = (1 / counts) / (1 / counts).mean()
  weights = class_losses.class_balanced_weights(counts, 1 - 1e-12)
  np.testing.assert_allclose(weights, inverse, rtol=1e-6)


def test_focal_with_gamma_0_is_the_cross_entropy():
  logits, label = jax.random.normal(jax.random.key(0), (9, 4)), jnp.arange(9) % 4
  loss = recipes.class_loss("focal", focal_gamma=0.0)
  expected = product(recipes.CROSS_ENTROPY, logits, label)
  np.testing.assert_array_equal(product(loss, logits, label), expected)


def test_errors_name_the_value():
  with pytest.raises(ValueError, match="class_balanced_beta is 1"):
    recipes.class_loss("class_balanced", counts=COUNTS, class_balanced_beta=1.0)
  with pytest.raises(ValueError, match="counts must be a vector .* not negative"):
    recipes.class_loss("balanced_softmax", counts=np.array([1, -1]))
  with pytest.raises(ValueError, match="7 outputs, but the class loss was made for 5 classes"):
    product(LOSSES["class_balanced"], jnp.zeros((1, 7)), jnp.zeros(1, int))
