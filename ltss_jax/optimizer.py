"""Optimizers of the published recipes: SGD and AdamW with a poly schedule, groups by path."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

PathRule = Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """What the release sets per recipe.

  Attributes:
    name: "sgd" (weight decay joins the gradient, then momentum) or "adamw" (decoupled decay).
    learning_rate: at the start.
    steps: at which the poly schedule reaches 0.
    momentum: momentum of SGD.
    b1: decay of AdamW's first moment.
    b2: decay of AdamW's second moment.
    weight_decay: per step, of the parameters that decay.
    backbone_multiplier: factor of the learning rate for paths below `backbone/`.
    clip_norm: largest global norm of the gradient; 0 switches clipping off.
    poly_power: learning rate = learning_rate * (1 - step / steps) ** poly_power.
    warmup_steps: W; step k < W has the poly schedule's rate times 1 / W + (1 - 1 / W) k / W, which
      is detectron2's linear warm-up with a factor of 1 / W at the start. 0: none.
  """

  name: str
  learning_rate: float
  steps: int
  momentum: float
  b1: float
  b2: float
  weight_decay: float
  backbone_multiplier: float
  clip_norm: float
  poly_power: float
  warmup_steps: int


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Poly decay to 0 at `config.steps`, multiplied by a linear warm-up where one is asked for."""
  poly = optax.polynomial_schedule(config.learning_rate, 0.0, config.poly_power, config.steps)
  if not config.warmup_steps:
    return poly

  def warmup(step):
    start = 1 / config.warmup_steps
    return jnp.minimum(start + (1 - start) * step / config.warmup_steps, 1)

  return lambda step: poly(step) * warmup(step)


def _map_paths(rule: Callable[[str], object], tree: optax.Params):
  """Tree of `rule(path)` with paths such as "backbone/res2/0/conv1/conv/kernel"."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: rule(jax.tree_util.keystr(path, simple=True, separator="/")), tree
  )


def make_optimizer(config: OptimizerConfig, decays: PathRule) -> optax.GradientTransformation:
  """Builds the gradient transformation.

  Args:
    config: the recipe.
    decays: tells of a parameter path whether weight decay applies.

  Returns:
    optax transformation over the parameter tree.

  Raises:
    ValueError: unknown `config.name`.
  """

  def decay_mask(params):
    return _map_paths(decays, params)

  def scale_backbone(updates, state, params=None):
    del params
    factors = _map_paths(
      lambda path: config.backbone_multiplier if path.startswith("backbone/") else 1.0, updates
    )
    return jax.tree.map(lambda u, f: u * f, updates, factors), state

  decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
  if config.name == "sgd":
    rule = [decay, optax.trace(config.momentum)]
  elif config.name == "adamw":
    rule = [optax.scale_by_adam(config.b1, config.b2), decay]
  else:
    raise ValueError(f"optimizer.name is {config.name!r}; known are 'sgd' and 'adamw'")
  clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  backbone = optax.GradientTransformation(lambda params: optax.EmptyState(), scale_backbone)
  rate = optax.scale_by_learning_rate(learning_rate_schedule(config))
  return optax.chain(*clip, *rule, backbone, rate)
