"""Mask2Former with its criterion and its inference."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh, PartitionSpec

from kernels import ms_deform_attn
from ltss_jax import resize_labels
from ltss_jax.architectures.architecture import Architecture
from ltss_jax.losses import mask_criterion
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
  inference_dtype: str = "float32",
) -> Architecture:
  """Mask2Former with its matched mask losses on every prediction.

  Args:
    config: shape of the model.
    criterion: costs, losses and matcher.
    max_targets: T, masks per image that the loss can take.
    ignore_label: label of the pixels that belong to no class.
    mesh: with the axis "data", over which the training batch is split; each device matches its own
      images.
    inference_dtype: compute dtype of `predict`; `config.dtype` is that of training.
  """
  chosen = ms_deform_attn.choose(config.deformable_attention)
  logging.info("Deformable attention: %s, of %s", chosen, ms_deform_attn.available())
  model = mask2former.functions(config)
  inference = mask2former.functions(mask2former.with_dtype(config, inference_dtype))
  return Architecture(
    num_classes=config.num_classes,
    init=model.init,
    loss=_mask2former_loss(model, config, criterion, ignore_label, mesh),
    loss_terms=(
      "loss",
      "loss_class",
      "loss_mask",
      "loss_dice",
      "dropped_targets",
      "nonfinite_logits",
      "invalid_matches",
    ),
    predict=_mask2former_predict(inference, config.class_head),
    score_blocks=_mask2former_score_blocks,
    decays=lambda path: not _MASK2FORMER_UNDECAYED.search(path),
    max_targets=max_targets,
  )


def _mask2former_loss(model, config, criterion, ignore_label, mesh) -> Callable:
  """`Architecture.loss` of Mask2Former."""

  def sums_of_all_devices(class_logits, mask_logits, targets, keys):
    sums = mask_criterion.criterion_sums(
      criterion, class_logits, mask_logits, targets, keys, config.num_classes
    )
    return jax.lax.psum(sums, "data")

  per_image, per_prediction = PartitionSpec("data"), PartitionSpec(None, "data")
  sharded_sums = jax.shard_map(
    sums_of_all_devices,
    mesh=mesh,
    in_specs=(per_prediction, per_prediction, per_image, per_image),
    out_specs=PartitionSpec(),
    # The check of what varies over devices refuses loops that start from constants, as optax's do.
    check_vma=False,
  )

  def loss(params, stats, batch, rng):
    if config.class_head != "softmax":
      raise ValueError(
        f"config.model.class_head={config.class_head!r} is for evaluating and converting published "
        "weights; training needs 'softmax'"
      )
    model_key, point_key = jax.random.split(rng)
    image = mask2former.pad_to_stride(batch["image"])
    label = mask2former.pad_to_stride(batch["label"], ignore_label)
    with ms_deform_attn.sharded(mesh, batch_axis="data"):
      (class_logits, embeddings, features), stats = model.apply(
        params, stats, image, train=True, rng=model_key
      )
    sums = sharded_sums(
      class_logits,
      mask2former.mask_logits(embeddings, features),
      mask_criterion.Targets(label, batch["classes"]),
      jax.random.split(point_key, image.shape[0]),
    )
    value, terms = mask_criterion.total_loss(criterion, sums)
    terms |= {
      "loss": value,
      "dropped_targets": batch["dropped_classes"].sum().astype(jnp.float32),
      "nonfinite_logits": sums.nonfinite_logits.astype(jnp.float32),
      "invalid_matches": sums.invalid_matches.astype(jnp.float32),
    }
    return value, (stats, terms)

  return loss


def _mask2former_predict(inference, class_head: str) -> Callable:
  """`Architecture.predict` of Mask2Former."""

  def predict(params, stats, image):
    (class_logits, embeddings, features), _ = inference.apply(
      params, stats, mask2former.pad_to_stride(image), train=False
    )
    return {
      "class_scores": mask2former.class_scores(class_logits[-1], class_head),
      "mask_logits": mask2former.mask_logits(embeddings[-1], features),
    }

  return predict


def _mask2former_score_blocks(prediction, size: tuple[int, int]) -> resize_labels.ScoreBlocks:
  masks = mask2former.full_size_masks(prediction["mask_logits"][None], *size)[0]  # [H, W, Q]

  def block(start, count):
    scores = jax.lax.dynamic_slice_in_dim(prediction["class_scores"], start, count, axis=-1)
    return masks @ scores

  return block
