"""Optimizers of the published recipes: SGD and AdamW, whose rates follow from step and path."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

PathRule = Callable[[str], bool]
SCHEDULES = ("poly", "two_stage")
_BACKBONE = "backbone/"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """What the release sets per recipe.

  Attributes:
    name: "sgd" (weight decay joins the gradient, then momentum) or "adamw" (decoupled decay).
    learning_rate: lr in the formulas below.
    steps: number of updates after which the rate is 0.
    momentum: momentum of SGD.
    b1: decay of AdamW's first moment.
    b2: decay of AdamW's second moment.
    weight_decay: per step, of the parameters that decay.
    backbone_multiplier: factor of the learning rate for paths below `backbone/`.
    layer_decay: factor of the learning rate for each encoder block between a parameter and the
      encoder's end.
    clip_norm: largest global norm of the gradient; 0 switches clipping off.
    schedule: one of `SCHEDULES`. "poly": lr * (1 - step / steps) ** poly_power, with one warm-up
      for all. "two_stage": the backbone waits for the rest to warm up. Outside the backbone
      the rate is lr * step / W before step W, and falls over the updates that are left. Below
      `backbone/` it is 0 before step W, lr * (step - W) / B before step W + B, and falls from there
      on. It falls by the same power. (Kerssies et al., "Your ViT is Secretly an Image Segmentation
      Model", CVPR 2025; the release.)
    poly_power: power of the fall to 0.
    warmup_steps: W; 0 for none. In the schedule "poly", step k < W has the rate times
      1 / W + (1 - 1 / W) k / W, which is detectron2's linear warm-up with a factor of 1 / W at the
      start.
    backbone_warmup_steps: B of "two_stage".
  """

  name: str
  learning_rate: float
  steps: int
  momentum: float
  b1: float
  b2: float
  weight_decay: float
  backbone_multiplier: float
  layer_decay: float
  clip_norm: float
  schedule: str
  poly_power: float
  warmup_steps: int
  backbone_warmup_steps: int


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Learning rate outside the backbone, by number of updates done; logs show this one.

  Raises:
    ValueError: unknown `config.schedule`.
  """
  if config.schedule == "two_stage":
    return _risen_and_falling(config, 0, config.warmup_steps)
  if config.schedule != "poly":
    raise ValueError(f"optimizer.schedule is {config.schedule!r}; known are {SCHEDULES}")
  poly = optax.polynomial_schedule(config.learning_rate, 0.0, config.poly_power, config.steps)
  if not config.warmup_steps:
    return poly

  def warmup(step):
    start = 1 / config.warmup_steps
    return jnp.minimum(start + (1 - start) * step / config.warmup_steps, 1)

  return lambda step: poly(step) * warmup(step)


def backbone_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Learning rate below `backbone/` by number of updates done, without the factor of its path."""
  if config.schedule == "two_stage":
    return _risen_and_falling(config, config.warmup_steps, config.backbone_warmup_steps)
  return learning_rate_schedule(config)


def _risen_and_falling(config: OptimizerConfig, begin: int, length: int) -> optax.Schedule:
  """0 up to step `begin`, linear over `length` updates, from there on poly."""
  top = begin + length
  poly = optax.polynomial_schedule(
    config.learning_rate, 0.0, config.poly_power, config.steps - top, transition_begin=top
  )

  def rise(step):
    return (step - begin) / length if length else jnp.where(step < begin, 0.0, 1.0)

  return lambda step: poly(step) * jnp.clip(rise(step), 0.0, 1.0)


def rate_factor(config: OptimizerConfig, path: str, layers_above: Callable[[str], int]) -> float:
  """Factor of the schedule's learning rate for a parameter.

  Args:
    config: recipe.
    path: path of the parameter, such as "backbone/blocks/0/norm1/scale".
    layers_above: number of encoder blocks between a path and the encoder's end.
  """
  multiplier = config.backbone_multiplier if path.startswith(_BACKBONE) else 1.0
  return multiplier * config.layer_decay ** layers_above(path)


def _map_paths(rule: Callable[[str], object], tree: optax.Params):
  """Tree of `rule(path)` with paths such as "backbone/res2/0/conv1/conv/kernel"."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: rule(jax.tree_util.keystr(path, simple=True, separator="/")), tree
  )


def make_optimizer(
  config: OptimizerConfig, decays: PathRule, layers_above: Callable[[str], int]
) -> optax.GradientTransformation:
  """Builds the gradient transformation.

  Args:
    config: the recipe.
    decays: tells of a parameter path whether weight decay applies.
    layers_above: tells of a parameter path how many encoder blocks lie between it and the encoder's
      end.

  Returns:
    optax transformation over the parameter tree.

  Raises:
    ValueError: unknown `config.name` or `config.schedule`.
  """

  def decay_mask(params):
    return _map_paths(decays, params)

  def scale_by_path(updates, state, params=None):
    del params
    factors = _map_paths(lambda path: rate_factor(config, path, layers_above), updates)
    return jax.tree.map(lambda u, f: u * f, updates, factors), state

  decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
  if config.name == "sgd":
    rule = [decay, optax.trace(config.momentum)]
  elif config.name == "adamw":
    rule = [optax.scale_by_adam(config.b1, config.b2), decay]
  else:
    raise ValueError(f"optimizer.name is {config.name!r}; known are 'sgd' and 'adamw'")
  clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  # Checkpoints of runs hold the states of this chain one by one: neither their number nor their
  # order may change.
  by_path = optax.GradientTransformation(lambda params: optax.EmptyState(), scale_by_path)
  return optax.chain(*clip, *rule, by_path, _scale_by_schedules(config))


def _scale_by_schedules(config: OptimizerConfig) -> optax.GradientTransformation:
  """Like `optax.scale_by_learning_rate` with the same state, for two schedules."""
  rate, backbone_rate = learning_rate_schedule(config), backbone_schedule(config)

  def init(params):
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates, state, params=None):
    del params
    rates = {False: -rate(state.count), True: -backbone_rate(state.count)}
    in_backbone = _map_paths(lambda path: path.startswith(_BACKBONE), updates)
    updates = jax.tree.map(
      lambda u, own: jnp.asarray(rates[own], u.dtype) * u, updates, in_backbone
    )
    return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)
