"""What inference and training need of a model, and what a kind of model states of itself."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from ltss_jax.models.functional import Functional

# (first class, number of classes) -> their scores [h, w, number].
ScoreBlocks = Callable[[jax.Array, int], jax.Array]

# Mean and standard deviation of ImageNet's RGB values in 0-255, as the release normalises.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What inference needs of a model, as pure functions.

  Attributes:
    num_classes: C.
    init: key -> (params, stats).
    predict: (params, stats, image [B, H, W, 3] normalised) -> prediction, a tree of [B, ...]; a
      model that takes multiples of a size pads by itself (`backbones.pad_to_stride`).
    score_blocks: (prediction of one image, without its batch axis, (H, W)) -> function that gives
      the float32 scores of a block of classes at the input's size; the class with the largest
      score wins.
    input_side: S, side in pixels of the squares that `predict` and `score_blocks` take alone, whose
      windows show it any image (`inference/sliding_window.py: any_size`); 0: they take any size.
  """

  num_classes: int
  init: Callable[[jax.Array], tuple[Any, Any]]
  predict: Callable[[Any, Any, jax.Array], Any]
  score_blocks: Callable[[Any, tuple[int, int]], ScoreBlocks]
  input_side: int = 0


@dataclasses.dataclass(frozen=True)
class Objective:
  """What training needs of a model and its loss, as pure functions.

  Attributes:
    init: key -> (params, stats); the loss's own state is part of stats.
    loss: (params, stats, batch, rng, step) -> (scalar, (new stats, {"loss term": scalar})); the
      batch holds "image" [B, H, W, 3] normalised, "label" [B, H, W], and "classes" and
      "dropped_classes" where `max_targets` asks the input pipeline for them; step is the number of
      updates done, an int32 scalar.
    loss_terms: names in that dict.
    decays: whether weight decay applies to a parameter path.
    layers_above: number of encoder blocks between a parameter path and the encoder's end, the
      exponent of the layer-wise decay of learning rates; 0 for all else.
    max_targets: T, number of classes of one image that the loss can take; 0 for all.
    frozen: entries of params that training leaves as they are.
  """

  init: Callable[[jax.Array], tuple[Any, Any]]
  loss: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
  loss_terms: tuple[str, ...]
  decays: Callable[[str], bool]
  layers_above: Callable[[str], int]
  max_targets: int
  frozen: tuple[str, ...] = ()

  def trained(self, params: dict[str, Any]) -> dict[str, Any]:
    """The entries of the parameters that training changes."""
    return {name: part for name, part in params.items() if name not in self.frozen}


@dataclasses.dataclass(frozen=True)
class ArchitectureSpec:
  """What a kind of model states of itself; `ltss_jax.build` makes it of a config.

  The two dataclasses are filled by the names of their fields: from `config.model`, `config.loss`,
  and "num_classes", "crop_size" and "backbone" (a `BackboneConfig`), or "class_loss" (a
  `ClassLoss`), "queries_per_class", "ignore_label" and "steps".

  Attributes:
    functions: model config -> `init` and `apply` of the module.
    model_config: dataclass of the model's shape; "dtype" is a field of it and of its "backbone".
    loss_config: dataclass of the loss's settings.
    architecture: (model config, log prior that inference takes from the class logits [C] or None)
      -> `Architecture`.
    objective: (model config, loss config, mesh over whose axes the batch is split)
      -> `Objective`.
    prior: statistic of the training data whose shares are the priors of the classes.
    official_names: (pattern, replacement) of paths and their official names, both with slashes; the
      first that matches counts. Those of the class layer, by which a checkpoint is recognised, are
      of no other architecture.
    class_layers: paths of the layers with an output for each class; the first one is inference's.
    class_counts: path in stats of the samples of every class so far; "" where no loss keeps any.
  """

  functions: Callable[[Any], Functional]
  model_config: type
  loss_config: type
  architecture: Callable[[Any, ArrayLike | None], Architecture]
  objective: Callable[[Any, Any, Mesh], Objective]
  prior: Literal["images", "pixels"]
  official_names: tuple[tuple[str, str | Callable[[re.Match], str]], ...]
  class_layers: tuple[str, ...]
  class_counts: str = ""


def normalize(image: jax.Array) -> jax.Array:
  """uint8 RGB [..., 3] -> float32, zero mean and unit variance per channel."""
  return (image.astype(jnp.float32) - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)
