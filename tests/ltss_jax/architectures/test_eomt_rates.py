"""Learning rate and weight decay of every parameter of the EoMT recipes for ADE20K."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import ade20k
from ltss_jax import build, mesh as mesh_lib, optimizer

# Encoder -> learning rate, decay by layer, updates, the two warm-ups.
RECIPES = {
  "dinov2_s": (1e-4, 0.8, 39_153, 500, 1000),
  "dinov3_s": (2e-4, 1.0, 20_208, 2000, 3000),
}
DEPTH = 12
STEPS = (0, 100, 500, 1000, 1500, 2000, 4000, 5000, 10_000, 20_000)


def published_rate(encoder, path, step):
  """As the release's code has it: by group, then by layer."""
  rate, decay, steps, w1, w2 = RECIPES[encoder]
  in_encoder = path.startswith("backbone/")
  begin, length = (w1, w2) if in_encoder else (0, w1)
  if step < begin + length:
    rate *= max(0, step - begin) / length
  else:
    rate *= (1 - (step - begin - length) / (steps - begin - length)) ** 0.9
  block = re.match(r"backbone/blocks/(\d+)/", path)
  if block:
    rate *= decay ** (DEPTH - 1 - int(block[1]))
  elif in_encoder and not path.startswith("backbone/norm/"):
    rate *= decay ** (DEPTH - 1)  # patches, tokens and positions
  return rate


@pytest.fixture(scope="module", params=RECIPES)
def updates(request):
  """(encoder, {path: first update of AdamW at each of STEPS}) for gradients of 0, and of 1.

  A number of 1 stands in the place of each array.
  """
  config = ade20k.get_config(f"model=eomt,backbone={request.param}")
  mesh = mesh_lib.data_mesh(jax.devices()[:1])
  objective = build.build_objective(config, num_classes=150, ignore_label=255, mesh=mesh)
  params, _ = jax.eval_shape(objective.init, jax.random.key(0))
  params = jax.tree.map(lambda _: jnp.float32(1), params)
  transform = optimizer.make_optimizer(
    build.optimizer_config(config), objective.decays, objective.layers_above
  )

  def at_step(step, gradient):
    *others, _ = transform.init(params)
    state = (*others, optax.ScaleByScheduleState(step))
    return transform.update(jax.tree.map(lambda _: gradient, params), state, params)[0]

  def by_path(gradient):
    found = jax.vmap(at_step, (0, None))(jnp.array(STEPS), jnp.float32(gradient))
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}

  return request.param, by_path(0), by_path(1)


def test_every_parameter_has_the_published_rate_and_decay(updates):
  """Where the gradient is 0 the update is 0.05 of the rate, else AdamW's first is the rate more."""
  encoder, decays, whole = updates
  assert len(decays) > 150
  for path, decay in decays.items():
    rates = np.array([published_rate(encoder, path, step) for step in STEPS])
    # Float32; AdamW's epsilon of 1e-8 beside gradients of 7e-4, as they are clipped.
    close = dict(rtol=1e-4, atol=1e-12, err_msg=path)
    np.testing.assert_allclose(decay, -0.05 * rates, **close)
    np.testing.assert_allclose(whole[path], -1.05 * rates, **close)


def test_groups_are_the_published_ones(updates):
  """One outside the encoder; inside one for each block where rates decay."""
  encoder, decays, _ = updates
  at_10_000 = {path: f"{decay[STEPS.index(10_000)]:.5g}" for path, decay in decays.items()}
  assert len(set(at_10_000.values())) == 1 + (DEPTH if encoder == "dinov2_s" else 1)
  parts = {path.split("/")[0] for path in at_10_000}
  assert parts == {"backbone", "q", "class_head", "mask_head", "upscale"}
