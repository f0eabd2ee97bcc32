"""Mask2Former with its criterion and its inference."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from jax.typing import ArrayLike

from kernels import ms_deform_attn
from ltss_jax.architectures import mask_classification
from ltss_jax.architectures.architecture import Architecture, ArchitectureSpec, Objective
from ltss_jax.architectures.mask_classification import LOSS_TERMS, MaskLossConfig
from ltss_jax.losses import pixel
from ltss_jax.models import backbones, mask2former
from ltss_jax.models.mask2former import Mask2FormerConfig

# Without weight decay, beside what backbones have so: the query and decoder level embeddings.
_UNDECAYED = re.compile(r"^transformer_decoder/(query_feat|query_embed|level_embed)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask2FormerLossConfig(MaskLossConfig):
  """Settings of the loss.

  Attributes:
    pixel_head_weight: weight of the loss of the auxiliary pixel head, where the model has one.
  """

  pixel_head_weight: float


def architecture(
  config: Mask2FormerConfig, inference_log_prior: ArrayLike | None = None
) -> Architecture:
  """Mask2Former for inference.

  Args:
    config: shape of the model.
    inference_log_prior: values that inference takes from the logits of the classes [C]
      (`mask_classification.prediction`); None for nothing.
  """
  chosen = ms_deform_attn.choose(config.implementation)
  logging.info("Deformable attention: %s, of %s", chosen, ms_deform_attn.available())
  model = mask2former.functions(config)

  def predict(params, stats, image):
    outputs, _ = model.apply(params, stats, backbones.pad_to_stride(image), train=False)
    return mask_classification.prediction(
      config.class_head,
      config.num_classes,
      outputs.class_logits[-1],
      mask2former.mask_logits(outputs.mask_embeddings[-1], outputs.mask_features),
      inference_log_prior,
    )

  return Architecture(config.num_classes, model.init, predict, mask_classification.score_blocks)


def objective(
  config: Mask2FormerConfig, loss_config: Mask2FormerLossConfig, mesh: Mesh
) -> Objective:
  """Mask2Former with its matched mask losses on every prediction.

  Args:
    config: shape of the model.
    loss_config: costs, losses and matcher.
    mesh: devices over all of whose axes the training batch is split; each matches its own images.
  """
  model = mask2former.functions(config)
  return Objective(
    init=model.init,
    loss=_loss(model, config, loss_config, mesh),
    loss_terms=LOSS_TERMS + (("loss_pixel",) if config.pixel_head else ()),
    decays=lambda path: backbones.decays(path) and not _UNDECAYED.search(path),
    layers_above=lambda path: 0,
    max_targets=loss_config.max_targets,
  )


def _loss(model, config, loss_config, mesh) -> Callable:
  """`Objective.loss` of Mask2Former."""
  ignore_label, keeps_counts = loss_config.ignore_label, loss_config.class_loss.keeps_counts
  criterion = mask_classification.criterion(loss_config, config.num_classes, mesh)

  def loss(params, stats, batch, rng, step):
    del step
    mask_classification.check_class_head(config.class_head, loss_config)
    model_key, point_key = jax.random.split(rng)
    image = backbones.pad_to_stride(batch["image"])
    label = backbones.pad_to_stride(batch["label"], ignore_label)
    with ms_deform_attn.sharded(mesh, batch_axis=mesh.axis_names):
      outputs, new_stats = model.apply(params, stats, image, train=True, rng=model_key)
    value, terms, matches = criterion(
      outputs.class_logits,
      mask2former.mask_logits(outputs.mask_embeddings, outputs.mask_features),
      batch,
      label,
      point_key,
      _class_counts(stats)[:-1] if keeps_counts else None,
    )
    if keeps_counts:
      new_stats = _add_matches(new_stats, matches)
    if config.pixel_head:
      auxiliary = pixel.auxiliary_loss(outputs.pixel_logits, label, ignore_label)
      terms["loss_pixel"] = loss_config.pixel_head_weight * auxiliary
      terms["loss"] = value = value + terms["loss_pixel"]
    return value, (new_stats, terms)

  return loss


def _class_counts(stats: dict[str, Any]) -> jax.Array:
  """[C + 1] queries matched with every class so far; the last slot is not used."""
  return stats["transformer_decoder"]["seesaw_counts"]


def _add_matches(stats: dict[str, Any], matches: jax.Array) -> dict[str, Any]:
  """The statistics with the matches [C] of a step added to the counts.

  float32 counts are whole numbers below 2^24. Beyond, an addition is rounded by at most 2^-24 of
  the count: it would be lost only where a step adds less than that share, after 2^24 such steps.
  """
  counts = _class_counts(stats).at[:-1].add(matches)
  return stats | {"transformer_decoder": stats["transformer_decoder"] | {"seesaw_counts": counts}}


_PIXEL_DECODER = "sem_seg_head/pixel_decoder"
_PREDICTOR = "sem_seg_head/predictor"
SPEC = ArchitectureSpec(
  functions=mask2former.functions,
  model_config=Mask2FormerConfig,
  loss_config=Mask2FormerLossConfig,
  architecture=architecture,
  objective=objective,
  prior="images",
  official_names=(
    (r"^pixel_decoder/input_proj/(\d+)/conv/", rf"{_PIXEL_DECODER}/input_proj/\1/0/"),
    (r"^pixel_decoder/input_proj/(\d+)/norm/", rf"{_PIXEL_DECODER}/input_proj/\1/1/"),
    (r"^pixel_decoder/level_embed$", f"{_PIXEL_DECODER}/transformer/level_embed"),
    (r"^pixel_decoder/layers/", f"{_PIXEL_DECODER}/transformer/encoder/layers/"),
    (r"^pixel_decoder/", f"{_PIXEL_DECODER}/"),
    (
      r"^transformer_decoder/cross_attention/(\d+)/attn/",
      rf"{_PREDICTOR}/transformer_cross_attention_layers/\1/multihead_attn/",
    ),
    (
      r"^transformer_decoder/self_attention/(\d+)/attn/",
      rf"{_PREDICTOR}/transformer_self_attention_layers/\1/self_attn/",
    ),
    (
      r"^transformer_decoder/(cross|self)_attention/",
      rf"{_PREDICTOR}/transformer_\1_attention_layers/",
    ),
    (r"^transformer_decoder/ffn/", f"{_PREDICTOR}/transformer_ffn_layers/"),
    (r"^transformer_decoder/mask_embed/", f"{_PREDICTOR}/mask_embed/layers/"),
    (r"^transformer_decoder/(query_feat|query_embed|level_embed)$", rf"{_PREDICTOR}/\1/kernel"),
    (r"^transformer_decoder/seesaw_counts$", "criterion/seesaw_loss/cum_samples"),
    (r"^transformer_decoder/", f"{_PREDICTOR}/"),
  ),
  class_layers=("transformer_decoder/class_embed", "pixel_head/classifier"),
  class_counts="transformer_decoder/seesaw_counts",
)
