"""A model that is differentiated by hand, for what needs no network."""

import jax.numpy as jnp

from ltss_jax import architectures


def objective():
  """A per-pixel linear classifier with plain mean loss: small enough to differentiate by hand."""

  def loss(params, stats, batch, rng, step):
    del rng, step
    score = batch["image"] @ params["head"]["kernel"]  # [B, H, W]
    value = jnp.mean((score - batch["label"]) ** 2)
    return value, ({"seen": stats["seen"] + score.shape[0]}, {"loss": value})

  return architectures.Objective(
    init=lambda key: ({"head": {"kernel": jnp.ones(3)}}, {"seen": jnp.float32(0)}),
    loss=loss,
    loss_terms=("loss",),
    decays=lambda path: True,
    layers_above=lambda path: 0,
    max_targets=0,
  )
