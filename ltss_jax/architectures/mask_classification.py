"""What architectures share that predict masks and their classes: inference and matched loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from ltss_jax.architectures.architecture import ScoreBlocks
from ltss_jax.losses import class_heads, mask_criterion
from ltss_jax.losses.class_losses import CLASS_LOSSES
from ltss_jax.models import mask2former

LOSS_TERMS = (
  "loss",
  "loss_class",
  "loss_mask",
  "loss_dice",
  "dropped_targets",
  "nonfinite_logits",
  "invalid_matches",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskLossConfig(mask_criterion.CriterionConfig):
  """Settings of the criterion, and what stands beside it.

  Attributes:
    max_targets: T, masks per image that the loss can take.
  """

  max_targets: int


def prediction(
  class_head: str,
  num_classes: int,
  class_logits: jax.Array,
  mask_logits: jax.Array,
  inference_log_prior: ArrayLike | None,
) -> dict[str, jax.Array]:
  """What `Architecture.predict` returns, for `score_blocks`.

  Args:
    class_head: a key of `class_heads.HEADS`.
    num_classes: C.
    class_logits: [B, Q, outputs].
    mask_logits: [B, H / 4, W / 4, Q].
    inference_log_prior: values that are taken from the logits of the classes [C], not from that of
      no object (Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, section 4.1);
      None for nothing.
  """
  if inference_log_prior is not None:
    class_logits = class_logits.at[..., : len(inference_log_prior)].subtract(inference_log_prior)
  probability = class_heads.HEADS[class_head].probability(class_logits)
  return {"class_scores": probability[..., :num_classes], "mask_logits": mask_logits}


def score_blocks(prediction: dict[str, jax.Array], size: tuple[int, int]) -> ScoreBlocks:
  """`Architecture.score_blocks`."""
  masks = mask2former.full_size_masks(prediction["mask_logits"][None], *size)[0]  # [H, W, Q]

  def block(start, count):
    scores = jax.lax.dynamic_slice_in_dim(prediction["class_scores"], start, count, axis=-1)
    return masks @ scores

  return block


def criterion(config: MaskLossConfig, num_classes: int, mesh: Mesh) -> Callable[..., Any]:
  """The matched loss of a global batch, in which each device matches its own images.

  Args:
    config: costs, losses and matcher.
    num_classes: C.
    mesh: devices over all of whose axes the batch is split.

  Returns:
    Function of (class_logits [L, B, Q, outputs], mask_logits [L, B, h, w, Q], batch, label
    [B, H, W], key, samples of every class so far [C] or None) that returns (loss, {"loss term":
    scalar} with all of `LOSS_TERMS`, queries matched with every class in this step [C]).
  """
  axes = mesh.axis_names

  def sums_of_all_devices(class_logits, mask_logits, targets, keys, counts):
    sums = mask_criterion.criterion_sums(
      config, class_logits, mask_logits, targets, keys, num_classes, counts, axes
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

  def loss(class_logits, mask_logits, batch, label, key, counts):
    sums = sharded_sums(
      class_logits,
      mask_logits,
      mask_criterion.Targets(label, batch["classes"]),
      jax.random.split(key, len(label)),
      counts,
    )
    value, terms = mask_criterion.total_loss(config, sums)
    terms |= {
      "loss": value,
      "dropped_targets": batch["dropped_classes"].sum().astype(jnp.float32),
      "nonfinite_logits": sums.nonfinite_logits.astype(jnp.float32),
      "invalid_matches": sums.invalid_matches.astype(jnp.float32),
    }
    return value, terms, sums.matched.sum(0)

  return loss


def check_class_head(class_head: str, config: MaskLossConfig) -> None:
  """Evaluation and conversion need the head alone, so that only training asks for its loss.

  Raises:
    ValueError: the class loss wants another class head.
  """
  name, wanted = config.class_loss.name, config.class_loss.class_head
  if class_head != wanted:
    losses = [loss.name for loss in CLASS_LOSSES.values() if loss.class_head == class_head]
    raise ValueError(
      f"config.model.class_head={class_head!r} does not go with config.loss.class_loss="
      f"{name!r} in training; set --config.model.class_head={wanted} or --config.loss.class_loss="
      + " or ".join(losses)
    )
