"""Settings, targets and result of the criterion of Mask2Former and EoMT."""

import dataclasses

import jax

from ltss_jax.losses import class_heads, matching
from ltss_jax.losses.class_loss_type import ClassLoss


@dataclasses.dataclass(frozen=True)
class CriterionConfig:
  """Settings of the criterion.

  Attributes:
    num_points: points per mask, in costs and losses.
    oversample_ratio: points drawn for a mask's loss to choose the uncertain ones from, as a
      multiple of `num_points`.
    importance_sample_ratio: share of the points of the loss that are chosen so; the others are
      drawn afresh.
    class_weight: weight of the class term, in costs and loss.
    mask_weight: weight of the cross-entropy of mask points.
    dice_weight: weight of the dice term.
    class_loss: loss of the class logits, which are those of its class head.
    no_object_weight: weight of "no object" in the class loss, beside 1 for classes, where the head
      has it for a class.
    matcher: "scipy" or "optax", see `matching.match`.
    ignored_pixels: "background": pixels with the ignore label are negatives of every mask;
      "left_out": points that touch them count neither in costs nor in losses.
    queries_per_class: queries of a target by class [C], for the frequency-based matcher; None: one.
    ignore_label: label of the pixels without a class; "left_out" alone needs it.
    pairs_per_step: matched pairs whose mask losses are computed at once. It bounds the memory, and
      the number of pairs of padding that are computed beside real ones; below 6, XLA leaves a
      second CPU core idle.
  """

  num_points: int
  oversample_ratio: float
  importance_sample_ratio: float
  class_weight: float
  mask_weight: float
  dice_weight: float
  class_loss: ClassLoss
  no_object_weight: float
  matcher: str
  ignored_pixels: str
  queries_per_class: tuple[int, ...] | None = None
  ignore_label: int | None = None
  pairs_per_step: int = 6

  def __post_init__(self):
    if self.matcher not in matching.BACKENDS:
      names = " or ".join(matching.BACKENDS)
      raise ValueError(f"matcher is {self.matcher!r}; set it to {names}")
    if self.ignored_pixels not in ("background", "left_out"):
      raise ValueError(
        f"ignored_pixels is {self.ignored_pixels!r}; set it to 'background' or 'left_out'"
      )
    if self.leaves_out and self.ignore_label is None:
      raise ValueError("ignored_pixels is 'left_out' without an ignore_label; give one")
    if self.num_points < 1 or self.pairs_per_step < 1:
      raise ValueError(
        f"num_points is {self.num_points} and pairs_per_step {self.pairs_per_step}; "
        "set both to 1 or more"
      )
    if self.queries_per_class is not None and min(self.queries_per_class, default=0) < 1:
      raise ValueError(
        f"queries_per_class are {self.queries_per_class}; give every class a number of 1 or more"
      )
    if not 0 <= self.importance_sample_ratio <= 1:
      raise ValueError(
        f"importance_sample_ratio is {self.importance_sample_ratio}; set it to 0 up to 1"
      )
    if self.oversample_ratio < 1:
      raise ValueError(f"oversample_ratio is {self.oversample_ratio}; set it to 1 or more")

  @property
  def leaves_out(self) -> bool:
    """Whether ignored pixels count neither in costs nor in losses."""
    return self.ignored_pixels == "left_out"

  @property
  def class_head(self) -> class_heads.ClassHead:
    """The class head that gives the logits."""
    return class_heads.HEADS[self.class_loss.class_head]

  def num_columns(self, num_queries: int, num_targets: int) -> int:
    """The most columns that the targets of one image can have, so that none is ever left out.

    Args:
      num_queries: Q; a target has no more columns, as they could not all be matched.
      num_targets: T, all of other classes.
    """
    if self.queries_per_class is None:
      return num_targets
    largest = sorted((min(n, num_queries) for n in self.queries_per_class), reverse=True)
    return sum(largest[:num_targets])

  @property
  def num_candidates(self) -> int:
    """Points to choose the uncertain ones from."""
    return int(self.num_points * self.oversample_ratio)

  @property
  def num_uncertain(self) -> int:
    """Points of a mask's loss that are chosen for their uncertainty."""
    return int(self.num_points * self.importance_sample_ratio)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """What the criterion compares with: label maps and the classes in them.

  Attributes:
    labels: [B, H, W] integer class ids; ids that `classes` does not name belong to no mask.
    classes: [B, T] int32, the present classes; -1 is padding.
  """

  labels: jax.Array
  classes: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CriterionSums:
  """Sums that merge over devices by addition.

  Attributes:
    class_sum: [L] weighted class loss over all queries, for each prediction.
    class_weight_sum: [L] weights of these queries.
    objectness_sum: [L] cross-entropy of the objectness over all queries; 0 for heads without one.
    num_queries: float32 scalar, queries of one prediction.
    matched: [L, C] float32, queries matched with targets of every class.
    bce_sum: [L] mean cross-entropy over a pair's points, summed over pairs.
    dice_sum: [L] dice loss over a pair's points, summed over pairs.
    num_targets: float32 scalar, targets, matched or not.
    nonfinite_logits: float32 scalar, class and mask logits that are infinite or not a number.
    invalid_matches: int32 scalar, problems that the matcher gave no valid answer to.
  """

  class_sum: jax.Array
  class_weight_sum: jax.Array
  objectness_sum: jax.Array
  num_queries: jax.Array
  matched: jax.Array
  bce_sum: jax.Array
  dice_sum: jax.Array
  num_targets: jax.Array
  nonfinite_logits: jax.Array
  invalid_matches: jax.Array
