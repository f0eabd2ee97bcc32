"""A Flax NNX module as two pure functions over nested dicts.

NNX stays inside `ltss_jax.models`: jit, value_and_grad, optax and Orbax see dicts of arrays only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]
Stats = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Functional:
  """`init` and `apply` of one module.

  Attributes:
    init: key -> (params, stats); stats are the averages of batch norms and
      the Seesaw loss's counts.
    apply: (params, stats, *inputs, train=..., rng=None) -> (outputs, new stats); rng feeds dropout.
  """

  init: Callable[[jax.Array], tuple[Params, Stats]]
  apply: Callable[..., tuple[Any, Stats]]


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
  """Makes `init` and `apply` of the module that `build(rngs)` constructs."""
  abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
  graphdef, _, _ = nnx.split(abstract, nnx.Param, nnx.BatchStat)

  def init(key: jax.Array) -> tuple[Params, Stats]:
    _, params, stats = nnx.split(build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

  def apply(params, stats, *inputs, train: bool, rng: jax.Array | None = None):
    model = nnx.merge(graphdef, params, stats)
    rngs = None if rng is None else nnx.Rngs(dropout=rng)
    outputs = model(*inputs, train=train, rngs=rngs)
    return outputs, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

  return Functional(init, apply)
