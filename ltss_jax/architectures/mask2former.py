"""Mask2Former with its criterion and its inference."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from kernels import ms_deform_attn
from ltss_jax.architectures.architecture import (
  Architecture,
  ArchitectureSpec,
  Objective,
  ScoreBlocks,
)
from ltss_jax.losses import class_heads, mask_criterion, pixel
from ltss_jax.losses.class_losses import CLASS_LOSSES
from ltss_jax.models import backbones, mask2former
from ltss_jax.models.mask2former import Mask2FormerConfig

# Without weight decay, beside what backbones have so: the query and decoder level embeddings.
_UNDECAYED = re.compile(r"^transformer_decoder/(query_feat|query_embed|level_embed)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask2FormerLossConfig(mask_criterion.CriterionConfig):
  """Settings of the criterion, and what stands beside it.

  Attributes:
    max_targets: T, masks per image that the loss can take.
    pixel_head_weight: weight of the loss of the auxiliary pixel head, where the model has one.
  """

  max_targets: int
  pixel_head_weight: float


def architecture(
  config: Mask2FormerConfig, inference_log_prior: ArrayLike | None = None
) -> Architecture:
  """Mask2Former for inference.

  Args:
    config: shape of the model.
    inference_log_prior: values that `predict` takes from the logits of the classes [C], not from
      that of no object (Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, section
      4.1); None for nothing.
  """
  chosen = ms_deform_attn.choose(config.implementation)
  logging.info("Deformable attention: %s, of %s", chosen, ms_deform_attn.available())
  model = mask2former.functions(config)
  head = class_heads.HEADS[config.class_head]

  def predict(params, stats, image):
    outputs, _ = model.apply(params, stats, backbones.pad_to_stride(image), train=False)
    class_logits = outputs.class_logits[-1]
    if inference_log_prior is not None:
      class_logits = class_logits.at[..., : len(inference_log_prior)].subtract(inference_log_prior)
    return {
      "class_scores": head.probability(class_logits)[..., : config.num_classes],
      "mask_logits": mask2former.mask_logits(outputs.mask_embeddings[-1], outputs.mask_features),
    }

  return Architecture(config.num_classes, model.init, predict, _score_blocks)


def _score_blocks(prediction: dict[str, jax.Array], size: tuple[int, int]) -> ScoreBlocks:
  masks = mask2former.full_size_masks(prediction["mask_logits"][None], *size)[0]  # [H, W, Q]

  def block(start, count):
    scores = jax.lax.dynamic_slice_in_dim(prediction["class_scores"], start, count, axis=-1)
    return masks @ scores

  return block


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
    loss_terms=(
      "loss",
      "loss_class",
      "loss_mask",
      "loss_dice",
      *(["loss_pixel"] if config.pixel_head else []),
      "dropped_targets",
      "nonfinite_logits",
      "invalid_matches",
    ),
    decays=lambda path: backbones.decays(path) and not _UNDECAYED.search(path),
    max_targets=loss_config.max_targets,
  )


def _loss(model, config, criterion, mesh) -> Callable:
  """`Objective.loss` of Mask2Former."""
  ignore_label, keeps_counts = criterion.ignore_label, criterion.class_loss.keeps_counts
  axes = mesh.axis_names

  def sums_of_all_devices(class_logits, mask_logits, targets, keys, counts):
    sums = mask_criterion.criterion_sums(
      criterion, class_logits, mask_logits, targets, keys, config.num_classes, counts, axes
    )
    return jax.lax.psum(sums, axes)

  per_image, per_prediction = PartitionSpec(axes), PartitionSpec(None, axes)
  sharded_sums = jax.shard_map(
    sums_of_all_devices,
    mesh=mesh,
    in_specs=(per_prediction, per_prediction, per_image, per_image, PartitionSpec()),
    out_specs=PartitionSpec(),
    # The check of what varies over devices refuses loops that start from constants, as optax's do.
    check_vma=False,
  )

  def loss(params, stats, batch, rng):
    _check_class_head(config, criterion)
    model_key, point_key = jax.random.split(rng)
    image = backbones.pad_to_stride(batch["image"])
    label = backbones.pad_to_stride(batch["label"], ignore_label)
    with ms_deform_attn.sharded(mesh, batch_axis=axes):
      outputs, new_stats = model.apply(params, stats, image, train=True, rng=model_key)
    sums = sharded_sums(
      outputs.class_logits,
      mask2former.mask_logits(outputs.mask_embeddings, outputs.mask_features),
      mask_criterion.Targets(label, batch["classes"]),
      jax.random.split(point_key, image.shape[0]),
      _class_counts(stats)[:-1] if keeps_counts else None,
    )
    if keeps_counts:
      new_stats = _add_matches(new_stats, sums.matched.sum(0))
    value, terms = mask_criterion.total_loss(criterion, sums)
    if config.pixel_head:
      auxiliary = pixel.auxiliary_loss(outputs.pixel_logits, label, ignore_label)
      terms["loss_pixel"] = criterion.pixel_head_weight * auxiliary
      value += terms["loss_pixel"]
    terms |= {
      "loss": value,
      "dropped_targets": batch["dropped_classes"].sum().astype(jnp.float32),
      "nonfinite_logits": sums.nonfinite_logits.astype(jnp.float32),
      "invalid_matches": sums.invalid_matches.astype(jnp.float32),
    }
    return value, (new_stats, terms)

  return loss


def _check_class_head(config, criterion) -> None:
  """Evaluation and conversion need the head alone, so that only training asks for its loss."""
  name, wanted = criterion.class_loss.name, criterion.class_loss.class_head
  if config.class_head != wanted:
    losses = [loss.name for loss in CLASS_LOSSES.values() if loss.class_head == config.class_head]
    raise ValueError(
      f"config.model.class_head={config.class_head!r} does not go with config.loss.class_loss="
      f"{name!r} in training; set --config.model.class_head={wanted} or --config.loss.class_loss="
      + " or ".join(losses)
    )


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
