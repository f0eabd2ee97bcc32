"""EoMT and its loss against `transformers`: golden, and live where torch is installed."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses import mask_costs, mask_criterion, matching, points
from ltss_jax.models import dino, eomt, position
from ltss_jax.weights import eomt_transformers, official
from tests import recipes
from tests.golden import eomt_transformers as judge, mask_criterion as criterion_judge
from tests.programs import GOLDEN

# Float32 round-off of five blocks, of class logits up to 40 and mask logits up to 25; seen: 4e-5.
CLOSE = dict(atol=2e-4, rtol=1e-5)


@pytest.fixture
def encoders(monkeypatch):
  """The judge's tiny encoders, and its factor of the coordinates in training."""
  shape = dict(depth=judge.DEPTH, channels=judge.CHANNELS, heads=judge.HEADS, patch=judge.PATCH)
  for kind in judge.KINDS:
    config = dino.DinoConfig(rotary=kind == "dinov3", swiglu="swiglu" in kind, **shape)
    monkeypatch.setitem(dino.CONFIGS, kind, config)
  rotary_positions = position.rotary_positions

  def rescaled(height, width, head_dim, rescale=1.0):
    is_drawn = isinstance(rescale, jax.Array)
    return rotary_positions(height, width, head_dim, judge.RESCALE if is_drawn else 1.0)

  monkeypatch.setattr(position, "rotary_positions", rescaled)


def model_of(kind):
  return eomt.functions(
    eomt.EomtConfig(
      num_classes=judge.NUM_CLASSES,
      backbone=dataclasses.replace(recipes.backbone("resnet50"), name=kind),
      crop_size=judge.SIDE,
      num_queries=judge.NUM_QUERIES,
      num_blocks=judge.QUERY_BLOCKS,
      class_head="softmax",
      dtype="float32",
      remat=False,
      scan_blocks=True,
    )
  )


@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def criterion(class_logits, mask_logits, targets):
  """Our loss at the judge's points, its terms [L, 3] without weights, and the matches [L, B, T]."""
  keys = criterion_judge.image_keys(judge.POINT_SEED, len(targets.classes))
  logits = class_logits, mask_logits
  sums = mask_criterion.criterion_sums(judge.CRITERION, *logits, targets, keys, judge.NUM_CLASSES)
  total, _ = mask_criterion.total_loss(judge.CRITERION, sums)
  class_loss = sums.class_sum / sums.class_weight_sum
  losses = [class_loss, sums.bce_sum / sums.num_targets, sums.dice_sum / sums.num_targets]
  labels = points.label_maps(targets.labels)
  match_keys, _ = mask_criterion.prediction_keys(keys, len(class_logits))
  costs = mask_costs.matching_costs(
    judge.CRITERION, *logits, labels, targets.classes, match_keys
  )  # [L, B, Q, T]
  present = jnp.broadcast_to(targets.classes >= 0, (*costs.shape[:2], costs.shape[-1]))
  target_of_query = matching.match(
    costs.reshape(-1, *costs.shape[2:]),
    present.reshape(-1, costs.shape[-1]).astype(jnp.int32),
    "scipy",
    costs.shape[-1],
  )
  has_it = target_of_query.reshape(costs.shape[:-1])[..., None] == jnp.arange(costs.shape[-1])
  query_of_target = jnp.where(present, jnp.argmax(has_it, axis=2), -1)
  return total, (jnp.stack(losses, 1), query_of_target)


class Ours:
  """Our model with the judge's weights, on the judge's batch."""

  def __init__(self, kind, names):
    model = model_of(kind)
    arrays = {name: judge.weight(name, tuple(shape)) for name, shape in names.items()}
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    self.weights = official.load_official("eomt", *abstract, eomt_transformers.to_official(arrays))
    self.batch = jax.tree.map(jnp.asarray, judge.batch())

    def train(params, stats, image, probabilities, cotangents):
      def outputs(params):
        key = jax.random.key(0)
        return model.apply(params, stats, image, probabilities, train=True, rng=key)[0]

      values, pullback = jax.vjp(outputs, params)
      return values, pullback(cotangents)[0]

    self._train = jax.jit(train)
    self._evaluate = jax.jit(functools.partial(model.apply, train=False))

  def outputs(self, run, cotangents=None):
    """Predictions, and in training the gradient that the cotangents give."""
    train, probabilities = judge.RUNS[run]
    if not train:
      return self._evaluate(*self.weights, self.batch["image"])
    if cotangents is None:
      grid = (judge.SIDE // 4,) * 2
      lead = (judge.QUERY_BLOCKS + 1, len(self.batch["image"]))
      cotangents = eomt.Predictions(
        jnp.zeros((*lead, judge.NUM_QUERIES, judge.NUM_CLASSES + 1)),
        jnp.zeros((*lead, *grid, judge.NUM_QUERIES)),
      )
    return self._train(*self.weights, self.batch["image"], jnp.array(probabilities), cotangents)

  def losses(self, criterion):
    """Loss, terms [L, 3], matches [L, B, T] and gradients by official name, of the run "masked"."""
    outputs, _ = self.outputs("masked")
    targets = mask_criterion.Targets(self.batch["label"], self.batch["classes"])
    (total, (losses, matches)), cotangents = criterion(*outputs, targets)
    _, gradient = self.outputs("masked", eomt.Predictions(*cotangents))
    return total, losses, matches, official.to_official("eomt", gradient, {})


@pytest.fixture(scope="module")
def compiled_criterion():
  """All models here share its shapes."""
  return jax.jit(criterion)


def assert_equal_to_judge(ours, criterion, outputs, judged):
  """Outputs of all runs, and losses, matches and gradients of one are the judge's."""
  for run, expected in outputs.items():
    predictions, _ = ours.outputs(run)
    masks = jnp.moveaxis(predictions.mask_logits, -1, -3)
    for name, value in (("class_logits", predictions.class_logits), ("mask_logits", masks)):
      value = value[-len(expected[name]) :]
      np.testing.assert_allclose(value, expected[name], **CLOSE, err_msg=f"{run} {name}")
  total, losses, matches, gradients = ours.losses(criterion)
  np.testing.assert_array_equal(matches, judged["query_of_target"])
  # Float32 means over some hundred points, of logits that differ as above.
  np.testing.assert_allclose(losses, judged["losses"], rtol=2e-5)
  np.testing.assert_allclose(total, judged["loss"], rtol=2e-5)
  theirs = {
    name.removeprefix("gradient/"): array
    for name, array in judged.items()
    if name.startswith("gradient/")
  }
  for name, expected in eomt_transformers.to_official(theirs).items():
    # Round-off relative to the largest entry, as sums over points and tokens cancel; seen: 1e-5.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      gradients[name], expected, rtol=1e-4, atol=5e-5 * scale, err_msg=name
    )
  return theirs


@pytest.mark.parametrize(
  "kind", ["dinov2", "dinov3", pytest.param("dinov2_swiglu", marks=pytest.mark.slow)]
)
def test_outputs_losses_and_gradients_equal_the_golden_file(kind, encoders, compiled_criterion):
  golden = dict(np.load(GOLDEN / "eomt_transformers.npz"))
  # Else the random numbers have changed, not the criterion: write the golden file again.
  drawn = np.floor(65536 * judge.points()["matching"])
  np.testing.assert_array_equal(drawn, golden["matching_points"])
  of_kind = {
    name.removeprefix(f"{kind}_"): array
    for name, array in golden.items()
    if name.startswith(f"{kind}_") and (kind == "dinov2_swiglu" or "swiglu" not in name)
  }
  outputs = {
    run: {name: of_kind[f"{run}_{name}"] for name in ("class_logits", "mask_logits")}
    for run in judge.RUNS
  }
  ours = Ours(kind, json.loads(of_kind["names"].tobytes()))
  assert len(assert_equal_to_judge(ours, compiled_criterion, outputs, of_kind)) > 20


@pytest.mark.parametrize("kind", judge.KINDS)
def test_outputs_losses_and_gradients_equal_the_package_live(kind, encoders, compiled_criterion):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  model = judge.build(kind)
  outputs = {run: judge.outputs(model, run) for run in judge.RUNS}
  ours = Ours(kind, judge.names_of(model))
  compared = assert_equal_to_judge(ours, compiled_criterion, outputs, judge.losses(model))
  assert compared.keys() == {name for name, _ in model.named_parameters()}
