"""DeepLabV3+ with its loss and its inference."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ltss_jax.architectures.architecture import Architecture
from ltss_jax.losses import pixel
from ltss_jax.losses.class_losses import ClassLoss
from ltss_jax.models import deeplabv3plus

# Entry of the stats: labelled pixels of every class so far, float32 [C]. A sum of so many pixels is
# rounded above 2^24, by 6e-8 of itself a step: no factor of the loss changes visibly by that.
_SEESAW_COUNTS = "seesaw_counts"


def deeplabv3plus_architecture(
  config: deeplabv3plus.DeepLabV3PlusConfig,
  *,
  hard_pixel_fraction: float,
  ignore_label: int,
  class_loss: ClassLoss,
  inference_dtype: str = "float32",
  inference_log_prior: ArrayLike | None = None,
) -> Architecture:
  """DeepLabV3+ with hard pixel mining.

  Args:
    config: shape of the model.
    hard_pixel_fraction: share of all pixels of the batch, the hardest, that make the loss.
    ignore_label: label of the pixels that belong to no class.
    class_loss: of every pixel. With "seesaw" the stats hold "seesaw_counts", the labelled pixels of
      every class over the global batches of all steps, the present one included (Wang et al.,
      "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021, with pixels for instances).
    inference_dtype: compute dtype of `predict`; `config.dtype` is that of training.
    inference_log_prior: what `predict` takes from the logits of the classes [C] (Menon et al.,
      "Long-tail Learning via Logit Adjustment", ICLR 2021); None for nothing.
  """
  model = deeplabv3plus.functions(config)
  inference = deeplabv3plus.functions(dataclasses.replace(config, dtype=inference_dtype))
  counts_pixels = class_loss.name == "seesaw"

  def init(key):
    params, stats = model.init(key)
    if counts_pixels:
      stats = stats | {_SEESAW_COUNTS: jnp.zeros(config.num_classes)}
    return params, stats

  # Recomputed in the backward pass: full-size logits of 847 classes would fill an accelerator.
  @jax.checkpoint
  def pixel_loss(logits, label, counts):
    logits = deeplabv3plus.full_resolution(logits, *label.shape[1:])  # [B, H, W, C]
    return pixel.class_loss(class_loss, logits, label, ignore_label, counts)  # [B, H, W]

  def loss(params, stats, batch, rng):
    image, label, counts = batch["image"], batch["label"], None
    logits, new_stats = model.apply(params, _of_model(stats), image, train=True, rng=rng)
    if counts_pixels:
      counts = stats[_SEESAW_COUNTS] + pixel.label_counts(label, config.num_classes)
      new_stats = new_stats | {_SEESAW_COUNTS: counts}
    value = pixel.hard_pixel_mean(pixel_loss(logits, label, counts), hard_pixel_fraction)
    return value, (new_stats, {"loss": value})

  def predict(params, stats, image):
    logits, _ = inference.apply(params, _of_model(stats), image, train=False)
    return logits if inference_log_prior is None else logits - inference_log_prior

  def score_blocks(logits, size):
    def block(start, count):
      part = jax.lax.dynamic_slice_in_dim(logits, start, count, axis=-1)
      return deeplabv3plus.full_resolution(part[None], *size)[0]

    return block

  return Architecture(
    num_classes=config.num_classes,
    init=init,
    loss=loss,
    loss_terms=("loss",),
    predict=predict,
    score_blocks=score_blocks,
    decays=lambda path: "/norm/" not in path,
    max_targets=0,
  )


def _of_model(stats: dict[str, Any]) -> dict[str, Any]:
  """The statistics without those of the loss."""
  return {name: value for name, value in stats.items() if name != _SEESAW_COUNTS}
