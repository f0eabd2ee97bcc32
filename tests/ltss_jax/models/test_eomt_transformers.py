"""EoMT and its loss against `transformers`: golden, and live where torch is installed."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltss_jax.losses import mask_costs, mask_criterion, matching, points
from ltss_jax.models import dino, eomt
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
  rotary_positions = dino.rotary_positions

  def rescaled(height, width, head_dim, rescale=1.0):
    is_drawn = isinstance(rescale, jax.Array)
    return rotary_positions(height, width, head_dim, judge.RESCALE if is_drawn else 1.0)

  monkeypatch.setattr(dino, "rotary_positions", rescaled)


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
    )
  )


class Ours:
  """Our model with the judge's weights, and our criterion on the judge's batch."""

  def __init__(self, kind, names):
    self.model = model_of(kind)
    arrays = {name: judge.weight(name, tuple(shape)) for name, shape in names.items()}
    abstract = jax.eval_shape(self.model.init, jax.random.key(0))
    self.weights = official.load_official("eomt", *abstract, eomt_transformers.to_official(arrays))
    self.batch = jax.tree.map(jnp.asarray, judge.batch())
    self.targets = mask_criterion.Targets(self.batch["label"], self.batch["classes"])

  @functools.cached_property
  def _evaluated(self):
    outputs, _ = jax.jit(functools.partial(self.model.apply, train=False))(
      *self.weights, self.batch["image"]
    )
    return outputs

  @functools.cached_property
  def _value_and_gradient(self):
    def loss(params, stats, probabilities):
      outputs, _ = self.model.apply(
        params, stats, self.batch["image"], probabilities, train=True, rng=jax.random.key(0)
      )
      sums = mask_criterion.criterion_sums(
        judge.CRITERION,
        *outputs,
        self.targets,
        criterion_judge.image_keys(judge.POINT_SEED, len(self.batch["image"])),
        judge.NUM_CLASSES,
      )
      total, _ = mask_criterion.total_loss(judge.CRITERION, sums)
      means = [sums.class_sum / sums.class_weight_sum, sums.bce_sum, sums.dice_sum]
      return total, (outputs, jnp.stack([means[0], *(x / sums.num_targets for x in means[1:])], 1))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))

  def outputs(self, run):
    """Class logits [L, B, Q, C + 1] and mask logits [L, B, Q, h, w]."""
    train, probabilities = judge.RUNS[run]
    outputs = self._evaluated
    if train:
      (_, (outputs, _)), _ = self._value_and_gradient(*self.weights, jnp.array(probabilities))
    return {
      "class_logits": outputs.class_logits,
      "mask_logits": jnp.moveaxis(outputs.mask_logits, -1, -3),
    }

  def losses(self):
    """Loss, losses [L, 3] and gradients under official names, of the run "masked"."""
    probabilities = jnp.array(judge.RUNS["masked"][1])
    (total, (_, losses)), gradient = self._value_and_gradient(*self.weights, probabilities)
    return total, losses, official.to_official("eomt", gradient, {})

  def query_of_target(self):
    """[L, B, T], -1 for padding."""
    run = self.outputs("masked")
    labels, classes = points.pad_labels(self.targets.labels), self.targets.classes
    keys = criterion_judge.image_keys(judge.POINT_SEED, len(classes))
    match_keys, _ = mask_criterion.prediction_keys(keys, judge.QUERY_BLOCKS + 1)
    mask_logits = jnp.moveaxis(run["mask_logits"], -3, -1)
    costs = mask_costs.matching_costs(
      judge.CRITERION, run["class_logits"], mask_logits, labels, classes, match_keys
    )
    flat = costs.reshape(-1, *costs.shape[2:])
    repeats = np.tile((classes >= 0).astype(np.int32), (len(costs), 1))
    target_of_query = matching.match(flat, repeats, "scipy", classes.shape[1])
    found = np.full(repeats.shape, -1)
    for problem, query in zip(*np.nonzero(target_of_query >= 0), strict=True):
      found[problem, target_of_query[problem, query]] = query
    return found.reshape(*costs.shape[:2], -1)


def assert_equal_to_judge(ours, outputs, judged):
  """Outputs of all runs, and losses, matches and gradients of one are the judge's."""
  for run, expected in outputs.items():
    for name, value in ours.outputs(run).items():
      value, theirs = np.array(value)[-len(expected[name]) :], expected[name]
      np.testing.assert_allclose(value, theirs, **CLOSE, err_msg=f"{run} {name}")
  np.testing.assert_array_equal(ours.query_of_target(), judged["query_of_target"])
  total, losses, gradients = ours.losses()
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


@pytest.mark.parametrize("kind", judge.KINDS)
def test_outputs_losses_and_gradients_equal_the_golden_file(kind, encoders):
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
  assert len(assert_equal_to_judge(ours, outputs, of_kind)) > 20


@pytest.mark.parametrize("kind", judge.KINDS)
def test_outputs_losses_and_gradients_equal_the_package_live(kind, encoders):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  model = judge.build(kind)
  outputs = {run: judge.outputs(model, run) for run in judge.RUNS}
  ours = Ours(kind, judge.names_of(model))
  compared = assert_equal_to_judge(ours, outputs, judge.losses(model))
  assert compared.keys() == {name for name, _ in model.named_parameters()}
