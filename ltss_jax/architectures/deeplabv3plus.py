"""DeepLabV3+ with its loss and its inference."""

import dataclasses

import jax

from ltss_jax.architectures.architecture import Architecture
from ltss_jax.losses import pixel
from ltss_jax.models import deeplabv3plus


def deeplabv3plus_architecture(
  config: deeplabv3plus.DeepLabV3PlusConfig,
  *,
  hard_pixel_fraction: float,
  ignore_label: int,
  inference_dtype: str = "float32",
) -> Architecture:
  """DeepLabV3+ with hard pixel mining.

  Args:
    config: shape of the model.
    hard_pixel_fraction: share of all pixels of the batch, the hardest, that make the loss.
    ignore_label: label of the pixels that belong to no class.
    inference_dtype: compute dtype of `predict`; `config.dtype` is that of training.
  """
  model = deeplabv3plus.functions(config)
  inference = deeplabv3plus.functions(dataclasses.replace(config, dtype=inference_dtype))

  # Recomputed in the backward pass: full-size logits of 847 classes would fill an accelerator.
  @jax.checkpoint
  def pixel_loss(logits, label):
    logits = deeplabv3plus.full_resolution(logits, *label.shape[1:])  # [B, H, W, C]
    return pixel.cross_entropy(logits, label, ignore_label)  # [B, H, W]

  def loss(params, stats, batch, rng):
    logits, stats = model.apply(params, stats, batch["image"], train=True, rng=rng)
    value = pixel.hard_pixel_mean(pixel_loss(logits, batch["label"]), hard_pixel_fraction)
    return value, (stats, {"loss": value})

  def predict(params, stats, image):
    return inference.apply(params, stats, image, train=False)[0]

  def score_blocks(logits, size):
    def block(start, count):
      part = jax.lax.dynamic_slice_in_dim(logits, start, count, axis=-1)
      return deeplabv3plus.full_resolution(part[None], *size)[0]

    return block

  return Architecture(
    num_classes=config.num_classes,
    init=model.init,
    loss=loss,
    loss_terms=("loss",),
    predict=predict,
    score_blocks=score_blocks,
    decays=lambda path: "/norm/" not in path,
  )
