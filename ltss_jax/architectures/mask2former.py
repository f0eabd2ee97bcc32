"""Mask2Former with its criterion and its inference."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from kernels import ms_deform_attn
from ltss_jax.architectures.architecture import Architecture, ScoreBlocks
from ltss_jax.losses import mask_criterion, pixel
from ltss_jax.models import mask2former

# Without weight decay: the norms, the query and decoder level embeddings, Swin's position tables.
_MASK2FORMER_UNDECAYED = re.compile(
  r"(norm\d?|/ln)/(scale|bias)$"
  r"|^transformer_decoder/(query_feat|query_embed|level_embed)$"
  r"|/relative_position_bias_table$"
)


def mask2former_architecture(
  config: mask2former.Mask2FormerConfig,
  criterion: mask_criterion.CriterionConfig,
  *,
  max_targets: int,
  ignore_label: int,
  mesh: Mesh,
  pixel_head_weight: float,
  inference_dtype: str = "float32",
  inference_log_prior: ArrayLike | None = None,
) -> Architecture:
  """Mask2Former with its matched mask losses on every prediction.

  Args:
    config: shape of the model.
    criterion: costs, losses and matcher.
    max_targets: T, masks per image that the loss can take.
    ignore_label: label of the pixels that belong to no class.
    mesh: with the axis "data", over which the training batch is split; each device matches its own
      images.
    pixel_head_weight: of the loss of the auxiliary pixel head, where the model has one.
    inference_dtype: compute dtype of `predict`; `config.dtype` is that of training.
    inference_log_prior: what `predict` takes from the logits of the classes [C], not from that of
      no object (Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, section 4.1);
      None for nothing.
  """
  chosen = ms_deform_attn.choose(config.deformable_attention)
  logging.info("Deformable attention: %s, of %s", chosen, ms_deform_attn.available())
  model = mask2former.functions(config)
  inference = mask2former.functions(mask2former.with_dtype(config, inference_dtype))
  return Architecture(
    num_classes=config.num_classes,
    init=model.init,
    loss=_mask2former_loss(model, config, criterion, ignore_label, mesh, pixel_head_weight),
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
    predict=_mask2former_predict(inference, config.class_head, inference_log_prior),
    score_blocks=_mask2former_score_blocks,
    decays=lambda path: not _MASK2FORMER_UNDECAYED.search(path),
    max_targets=max_targets,
  )


def _mask2former_loss(model, config, criterion, ignore_label, mesh, pixel_head_weight) -> Callable:
  """`Architecture.loss` of Mask2Former."""

  def sums_of_all_devices(class_logits, mask_logits, targets, keys, counts):
    sums = mask_criterion.criterion_sums(
      criterion, class_logits, mask_logits, targets, keys, config.num_classes, counts, "data"
    )
    return jax.lax.psum(sums, "data")

  per_image, per_prediction = PartitionSpec("data"), PartitionSpec(None, "data")
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
    image = mask2former.pad_to_stride(batch["image"])
    label = mask2former.pad_to_stride(batch["label"], ignore_label)
    with ms_deform_attn.sharded(mesh, batch_axis="data"):
      outputs, new_stats = model.apply(params, stats, image, train=True, rng=model_key)
    sums = sharded_sums(
      outputs.class_logits,
      mask2former.mask_logits(outputs.mask_embeddings, outputs.mask_features),
      mask_criterion.Targets(label, batch["classes"]),
      jax.random.split(point_key, image.shape[0]),
      _seesaw_counts(stats)[:-1] if criterion.is_seesaw else None,
    )
    if criterion.is_seesaw:
      new_stats = _add_matches(new_stats, sums.matched.sum(0))
    value, terms = mask_criterion.total_loss(criterion, sums)
    if config.pixel_head:
      auxiliary = pixel.auxiliary_loss(outputs.pixel_logits, label, ignore_label)
      terms["loss_pixel"] = pixel_head_weight * auxiliary
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
  name = criterion.class_loss.name
  if (config.class_head == "seesaw") != criterion.is_seesaw:
    wanted = "seesaw" if criterion.is_seesaw else "softmax"
    raise ValueError(
      f"config.model.class_head={config.class_head!r} does not go with config.loss.class_loss="
      f"{name!r} in training; set --config.model.class_head={wanted}"
      + ("" if criterion.is_seesaw else " or --config.loss.class_loss=seesaw")
    )


def _seesaw_counts(stats: dict[str, Any]) -> jax.Array:
  """[C + 1] queries matched with every class so far; the last slot is not used."""
  return stats["transformer_decoder"]["seesaw_counts"]


def _add_matches(stats: dict[str, Any], matches: jax.Array) -> dict[str, Any]:
  """The statistics with the matches [C] of a step added to the counts.

  float32 counts are whole numbers below 2^24. Beyond, an addition is rounded by at most 2^-24 of
  the count: it would be lost only where a step adds less than that share, after 2^24 such steps.
  """
  counts = _seesaw_counts(stats).at[:-1].add(matches)
  return stats | {"transformer_decoder": stats["transformer_decoder"] | {"seesaw_counts": counts}}


def _mask2former_predict(inference, class_head: str, log_prior: ArrayLike | None) -> Callable:
  """`Architecture.predict` of Mask2Former."""

  def predict(params, stats, image):
    outputs, _ = inference.apply(params, stats, mask2former.pad_to_stride(image), train=False)
    class_logits = outputs.class_logits[-1]
    if log_prior is not None:
      class_logits = class_logits.at[..., : len(log_prior)].subtract(log_prior)
    return {
      "class_scores": mask2former.class_scores(class_logits, class_head),
      "mask_logits": mask2former.mask_logits(outputs.mask_embeddings[-1], outputs.mask_features),
    }

  return predict


def _mask2former_score_blocks(prediction, size: tuple[int, int]) -> ScoreBlocks:
  masks = mask2former.full_size_masks(prediction["mask_logits"][None], *size)[0]  # [H, W, Q]

  def block(start, count):
    scores = jax.lax.dynamic_slice_in_dim(prediction["class_scores"], start, count, axis=-1)
    return masks @ scores

  return block
