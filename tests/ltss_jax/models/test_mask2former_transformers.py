"""Mask2Former against that of the `transformers` package, golden and, where installed, live."""

import json

import jax
import numpy as np
import pytest

from ltss_jax.models import mask2former
from ltss_jax.weights import huggingface, official
from tests import recipes
from tests.golden import mask2former_transformers as judge
from tests.programs import GOLDEN

# Float32 round-off through up to 80 layers, of logits up to 40; seen: 7e-5.
CLOSE = dict(atol=5e-4, rtol=1e-5)


def ours(backbone, names):
  """(class logits [4, Q, C + 1], last mask logits [Q, h, w]) with the judge's weights."""
  config = recipes.mask2former_of(
    judge.NUM_CLASSES,
    recipes.backbone(backbone),
    num_queries=judge.NUM_QUERIES,
    encoder_layers=2,
    decoder_layers=3,
  )
  model = mask2former.functions(config)
  arrays = {name: judge.weight(name, tuple(shape)) for name, shape in names.items()}
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  weights = official.load_official("mask2former", *abstract, huggingface.to_official(arrays))

  @jax.jit
  def run(params, stats, image):
    predicted, _ = model.apply(params, stats, image, train=False)
    masks = mask2former.mask_logits(predicted.mask_embeddings[-1], predicted.mask_features)
    return predicted.class_logits[:, 0], masks[0]

  classes, masks = run(*weights, judge.image())
  return classes, masks.transpose(2, 0, 1)


@pytest.mark.parametrize("backbone", ["resnet50", "swin_t"])
def test_forward_equals_the_golden_file(backbone):
  golden = np.load(GOLDEN / "mask2former_transformers.npz")
  classes, masks = ours(backbone, json.loads(golden[f"{backbone}_names"].tobytes()))
  np.testing.assert_allclose(classes, golden[f"{backbone}_class_logits"], **CLOSE)
  np.testing.assert_allclose(masks, golden[f"{backbone}_mask_logits"], **CLOSE)


@pytest.mark.parametrize("backbone", ["resnet50", "swin_t"])
def test_forward_equals_the_package_live(backbone):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  model = judge.build(backbone)
  expected = judge.outputs(model)
  names = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  for mine, theirs in zip(ours(backbone, names), expected, strict=True):
    np.testing.assert_allclose(mine, theirs, **CLOSE)
