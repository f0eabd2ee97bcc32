"""Our side of `backbone_judges.py`: Swin and ViT with the same parameters and cotangents."""

import jax
import numpy as np
from flax import nnx

from ltss_jax.models import backbones, functional
from ltss_jax.weights import official
from tests import recipes
from tests.golden.backbone_parameters import GRADIENTS, cotangent, parameter


def model(name: str, **changes) -> functional.Functional:
  """A backbone as pure functions."""
  config = recipes.backbone(name, **changes)
  return functional.functional(lambda rngs: backbones.build(config, rngs=rngs))


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
  """Official name -> shape, in official layout, of all that a backbone's checkpoint holds."""
  config = recipes.backbone(name)
  module = nnx.eval_shape(lambda: backbones.build(config, rngs=nnx.Rngs(0)))
  _, *trees = nnx.split(module, nnx.Param, nnx.BatchStat)
  # Zeros of any shape without the memory.
  trees = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), trees)
  arrays = official.to_official("mask2former", *({"backbone": nnx.to_pure_dict(t)} for t in trees))
  return {name.removeprefix("backbone."): x.shape for name, x in arrays.items()}


def parameters(name: str, net: functional.Functional) -> tuple:
  """(params, stats) of the backbone `name`, filled by `backbone_parameters`."""
  trees = jax.eval_shape(net.init, jax.random.key(0))
  arrays = {f"backbone.{n}": parameter(n, shape) for n, shape in official_shapes(name).items()}
  loaded = official.load_official("mask2former", *({"backbone": t} for t in trees), arrays)
  return tuple(tree.get("backbone", {}) for tree in loaded)


def judged(key: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
  """What `backbone_judges.judge` returns, computed here: features and gradients, channel-first."""
  net = model(f"{key}_mini")
  params, stats = parameters(f"{key}_mini", net)

  @jax.jit
  def gradients(params, image):
    def total(params, image):
      features, _ = net.apply(params, stats, image, train=False)
      features = {name: x.transpose(0, 3, 1, 2) for name, x in features.items()}
      return sum((x * cotangent(key, n, x.shape)).sum() for n, x in features.items()), features

    return jax.grad(total, argnums=(0, 1), has_aux=True)(params, image)

  (by_params, by_image), arrays = gradients(params, pixels.transpose(0, 2, 3, 1))
  arrays["grad_image"] = by_image.transpose(0, 3, 1, 2)
  by_name = official.to_official("mask2former", {"backbone": by_params}, {})
  return arrays | {f"grad/{name}": by_name[f"backbone.{name}"] for name in GRADIENTS[key]}


def assert_judged(ours: dict[str, np.ndarray], judge: dict[str, np.ndarray]) -> None:
  """Asserts that both sides computed the same."""
  assert set(ours) == set(judge)
  for name, expected in judge.items():
    # Float32 round-off of some hundred operations, relative to the array's largest value.
    bound = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(ours[name], expected, rtol=0, atol=bound, err_msg=name)
