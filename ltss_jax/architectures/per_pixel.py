"""What architectures share that classify every pixel: inference, and the loss of hard pixels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from jax.typing import ArrayLike

from ltss_jax.architectures import class_counts
from ltss_jax.architectures.architecture import Architecture, ArchitectureSpec, Objective
from ltss_jax.losses import pixel
from ltss_jax.losses.class_loss_type import ClassLoss
from ltss_jax.models import backbones
from ltss_jax.models.functional import Functional

# (logits [B, h, w, C], H, W) -> [B, H, W, C].
FullResolution = Callable[[jax.Array, int, int], jax.Array]


@dataclasses.dataclass(frozen=True)
class PixelLossConfig:
  """Settings of a loss of pixels.

  Attributes:
    class_loss: loss of every pixel. The samples that one with counts sees are the labelled pixels
      of every class over the global batches of all steps, the present one included (for Seesaw:
      Wang et al., CVPR 2021, with pixels for instances).
    hard_pixel_fraction: share of all pixels of the batch, the hardest, that make the loss.
    ignore_label: label of the pixels that belong to no class.
  """

  class_loss: ClassLoss
  hard_pixel_fraction: float
  ignore_label: int


def spec(
  functions: Callable[[Any], Functional],
  model_config: type,
  full_resolution: FullResolution,
  *,
  official_names: tuple[tuple[str, str], ...],
  class_layer: str,
) -> ArchitectureSpec:
  """What a classifier of pixels states of itself.

  Args:
    functions: model config -> functions of the network, which gives logits [B, h, w, C].
    model_config: dataclass of the network's shape, with "num_classes", "backbone" and "dtype".
    full_resolution: brings the logits to the input's size.
    official_names: rules, as in `ArchitectureSpec`.
    class_layer: path of the layer that gives the logits.
  """

  def architecture(config: Any, inference_log_prior: ArrayLike | None = None) -> Architecture:
    model = functions(config)
    return _architecture(model, config.num_classes, full_resolution, inference_log_prior)

  def objective(config: Any, loss_config: PixelLossConfig, mesh: Mesh | None = None) -> Objective:
    del mesh  # the loss is one computation over the global batch
    return _objective(functions(config), config.num_classes, full_resolution, loss_config)

  return ArchitectureSpec(
    functions=functions,
    model_config=model_config,
    loss_config=PixelLossConfig,
    architecture=architecture,
    objective=objective,
    prior="pixels",
    official_names=official_names,
    class_layers=(class_layer,),
    class_counts=class_counts.NAME,
  )


def _architecture(
  model: Functional,
  num_classes: int,
  full_resolution: FullResolution,
  inference_log_prior: ArrayLike | None,
) -> Architecture:
  # Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, for the prior.

  def predict(params, stats, image):
    logits, _ = model.apply(params, class_counts.without(stats), image, train=False)
    return logits if inference_log_prior is None else logits - inference_log_prior

  def score_blocks(logits, size):
    def block(start, count):
      part = jax.lax.dynamic_slice_in_dim(logits, start, count, axis=-1)
      return full_resolution(part[None], *size)[0]

    return block

  return Architecture(num_classes, model.init, predict, score_blocks)


def _objective(
  model: Functional, num_classes: int, full_resolution: FullResolution, config: PixelLossConfig
) -> Objective:
  class_loss, ignore_label = config.class_loss, config.ignore_label
  _warn_of_mining(config)

  # Recomputed in the backward pass: full-size logits of 847 classes would fill an accelerator.
  @jax.checkpoint
  def pixel_loss(logits, label, counts):
    logits = full_resolution(logits, *label.shape[1:])  # [B, H, W, C]
    return pixel.class_loss(class_loss, logits, label, ignore_label, counts)  # [B, H, W]

  def loss(params, stats, batch, rng, step):
    del step
    image, label, counts = batch["image"], batch["label"], None
    logits, new_stats = model.apply(params, class_counts.without(stats), image, train=True, rng=rng)
    if class_loss.keeps_counts:
      counts = stats[class_counts.NAME] + pixel.label_counts(label, num_classes)
      new_stats = new_stats | {class_counts.NAME: counts}
    value = pixel.hard_pixel_mean(pixel_loss(logits, label, counts), config.hard_pixel_fraction)
    return value, (new_stats, {"loss": value})

  return Objective(
    init=class_counts.added(model.init, class_loss, num_classes),
    loss=loss,
    loss_terms=("loss",),
    decays=backbones.decays,
    layers_above=lambda path: 0,
    max_targets=0,
  )


def _warn_of_mining(config: PixelLossConfig) -> None:
  if config.class_loss.favours_rare_classes and config.hard_pixel_fraction < 1:
    logging.warning(
      "config.loss.class_loss=%s together with config.loss.hard_pixel_fraction=%g favours rare "
      "classes twice, which cost half of the mIoU where it was tried (docs/methods.md); "
      "--config.loss.hard_pixel_fraction=1 takes all pixels.",
      config.class_loss.name,
      config.hard_pixel_fraction,
    )
