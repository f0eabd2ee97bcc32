"""DeepLabV3+ with its loss and its inference."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh
from jax.typing import ArrayLike

from ltss_jax.architectures.architecture import Architecture, ArchitectureSpec, Objective
from ltss_jax.losses import pixel
from ltss_jax.losses.class_loss import ClassLoss
from ltss_jax.models import deeplabv3plus
from ltss_jax.models.deeplabv3plus import DeepLabV3PlusConfig

# Entry of the stats: labelled pixels of every class so far, float32 [C]. A sum of so many pixels is
# rounded above 2^24, by 6e-8 of itself a step: no factor of a loss changes visibly by that. The
# name is from the first loss that counts.
_COUNTS = "seesaw_counts"


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


def architecture(
  config: DeepLabV3PlusConfig, inference_log_prior: ArrayLike | None = None
) -> Architecture:
  """DeepLabV3+ for inference.

  Args:
    config: shape of the model.
    inference_log_prior: values that `predict` takes from the logits of the classes [C] (Menon et
      al., "Long-tail Learning via Logit Adjustment", ICLR 2021); None for nothing.
  """
  model = deeplabv3plus.functions(config)

  def predict(params, stats, image):
    logits, _ = model.apply(params, _of_model(stats), image, train=False)
    return logits if inference_log_prior is None else logits - inference_log_prior

  def score_blocks(logits, size):
    def block(start, count):
      part = jax.lax.dynamic_slice_in_dim(logits, start, count, axis=-1)
      return deeplabv3plus.full_resolution(part[None], *size)[0]

    return block

  return Architecture(config.num_classes, model.init, predict, score_blocks)


def objective(
  config: DeepLabV3PlusConfig, loss_config: PixelLossConfig, mesh: Mesh | None = None
) -> Objective:
  """DeepLabV3+ with hard pixel mining.

  Args:
    config: shape of the model.
    loss_config: settings of the loss.
    mesh: not used; the loss is one computation over the global batch.
  """
  del mesh
  model = deeplabv3plus.functions(config)
  class_loss, ignore_label = loss_config.class_loss, loss_config.ignore_label
  _warn_of_mining(loss_config)

  def init(key):
    params, stats = model.init(key)
    if class_loss.keeps_counts:
      stats = stats | {_COUNTS: jnp.zeros(config.num_classes)}
    return params, stats

  # Recomputed in the backward pass: full-size logits of 847 classes would fill an accelerator.
  @jax.checkpoint
  def pixel_loss(logits, label, counts):
    logits = deeplabv3plus.full_resolution(logits, *label.shape[1:])  # [B, H, W, C]
    return pixel.class_loss(class_loss, logits, label, ignore_label, counts)  # [B, H, W]

  def loss(params, stats, batch, rng):
    image, label, counts = batch["image"], batch["label"], None
    logits, new_stats = model.apply(params, _of_model(stats), image, train=True, rng=rng)
    if class_loss.keeps_counts:
      counts = stats[_COUNTS] + pixel.label_counts(label, config.num_classes)
      new_stats = new_stats | {_COUNTS: counts}
    values = pixel_loss(logits, label, counts)
    value = pixel.hard_pixel_mean(values, loss_config.hard_pixel_fraction)
    return value, (new_stats, {"loss": value})

  return Objective(
    init=init,
    loss=loss,
    loss_terms=("loss",),
    decays=lambda path: "/norm/" not in path,
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


def _of_model(stats: dict[str, Any]) -> dict[str, Any]:
  """The statistics without those of the loss."""
  return {name: value for name, value in stats.items() if name != _COUNTS}


_HEAD = "sem_seg_head/decoder"
SPEC = ArchitectureSpec(
  functions=deeplabv3plus.functions,
  model_config=DeepLabV3PlusConfig,
  loss_config=PixelLossConfig,
  architecture=architecture,
  objective=objective,
  prior="pixels",
  official_names=(
    (r"^aspp/image_pool", f"{_HEAD}/res5/project_conv/convs/4/1"),
    (r"^aspp/branches/", f"{_HEAD}/res5/project_conv/convs/"),
    (r"^aspp/project", f"{_HEAD}/res5/project_conv/project"),
    (r"^low_level", f"{_HEAD}/res2/project_conv"),
    (r"^fuse/", f"{_HEAD}/res2/fuse_conv/"),
    (r"^classifier", "sem_seg_head/predictor"),
  ),
  class_layers=("classifier",),
  class_counts=_COUNTS,
)
