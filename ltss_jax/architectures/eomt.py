"""EoMT with Mask2Former's criterion and its inference."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from ltss_jax.architectures import class_counts, mask_classification
from ltss_jax.architectures.architecture import Architecture, ArchitectureSpec, Objective
from ltss_jax.architectures.mask_classification import LOSS_TERMS, MaskLossConfig
from ltss_jax.models import dino, eomt
from ltss_jax.models.eomt import EomtConfig

_ANNEALING_POWER = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class EomtLossConfig(MaskLossConfig):
  """Settings of the loss and of the masked attention in training.

  Attributes:
    steps: updates of the whole training.
    mask_annealing_starts: [n] shares of the training at which the probability of a mask begins to
      fall from 1, for each block with queries.
    mask_annealing_ends: [n] shares at which it is 0.
  """

  steps: int
  mask_annealing_starts: tuple[float, ...]
  mask_annealing_ends: tuple[float, ...]


def mask_probabilities(step: ArrayLike, starts: Sequence[int], ends: Sequence[int]) -> jax.Array:
  """Probability with which a query is masked, in each of the blocks with queries.

  Args:
    step: number of updates done.
    starts: [n] number of updates up to which it is 1.
    ends: [n] number of updates from which on it is 0.

  Returns:
    float32 [n]; between the two it falls with (1 - progress)^0.9.
  """
  starts, ends = jnp.array(starts, jnp.float32), jnp.array(ends, jnp.float32)
  progress = (step - starts) / jnp.maximum(ends - starts, 1)
  falling = jnp.clip(1 - progress, 0, 1) ** _ANNEALING_POWER
  return jnp.where(step < starts, 1.0, jnp.where(step >= ends, 0.0, falling))


def architecture(config: EomtConfig, inference_log_prior: ArrayLike | None = None) -> Architecture:
  """EoMT for inference, without masks in its attention.

  Args:
    config: shape of the model.
    inference_log_prior: values that inference takes from the logits of the classes [C]
      (`mask_classification.prediction`); None for nothing.
  """
  model = eomt.functions(config)

  def predict(params, stats, image):
    outputs, _ = model.apply(params, class_counts.without(stats), image, train=False)
    return mask_classification.prediction(
      config.class_head,
      config.num_classes,
      outputs.class_logits[-1],
      outputs.mask_logits[-1],
      inference_log_prior,
    )

  return Architecture(
    config.num_classes, model.init, predict, mask_classification.score_blocks, config.crop_size
  )


def objective(config: EomtConfig, loss_config: EomtLossConfig, mesh: Mesh) -> Objective:
  """EoMT with the matched mask losses on the prediction in front of each block with queries too.

  Args:
    config: shape of the model.
    loss_config: costs, losses and matcher, and the annealing of the masks.
    mesh: devices over all of whose axes the training batch is split; each matches its own images.
  """
  model = eomt.functions(config)
  return Objective(
    init=class_counts.added(model.init, loss_config.class_loss, config.num_classes),
    loss=_loss(model, config, loss_config, mesh),
    loss_terms=LOSS_TERMS,
    decays=lambda path: True,
    layers_above=lambda path: _layers_above(config.backbone.name, path),
    max_targets=loss_config.max_targets,
  )


def _loss(model, config, loss_config, mesh) -> Callable:
  """`Objective.loss` of EoMT."""
  criterion = mask_classification.criterion(loss_config, config.num_classes, mesh)
  starts, ends = (
    [round(share * loss_config.steps) for share in shares]
    for shares in (loss_config.mask_annealing_starts, loss_config.mask_annealing_ends)
  )

  def loss(params, stats, batch, rng, step):
    mask_classification.check_class_head(config.class_head, loss_config)
    model_key, point_key = jax.random.split(rng)
    probabilities = mask_probabilities(step, starts, ends)
    outputs, new_stats = model.apply(
      params, class_counts.without(stats), batch["image"], probabilities, train=True, rng=model_key
    )
    counts = stats.get(class_counts.NAME)
    value, terms, matches = criterion(
      outputs.class_logits, outputs.mask_logits, batch, batch["label"], point_key, counts
    )
    if counts is not None:
      new_stats = new_stats | {class_counts.NAME: counts + matches}
    return value, (new_stats, terms)

  return loss


def _layers_above(encoder: str, path: str) -> int:
  room, _, within = path.partition("/")
  return dino.layers_above(encoder, within) if room == "backbone" else 0


SPEC = ArchitectureSpec(
  functions=eomt.functions,
  model_config=EomtConfig,
  loss_config=EomtLossConfig,
  architecture=architecture,
  objective=objective,
  prior="images",
  # The release's, without "network." and "encoder." in front.
  official_names=(
    (r"^q/embedding$", "q/kernel"),
    (r"^mask_head/(\d+)/", lambda match: f"mask_head/{2 * int(match[1])}/"),
  ),
  class_layers=("class_head",),
  class_counts=class_counts.NAME,
)
