"""Copy-Paste: regions of some classes of a second image are copied over the first.

Both images have been augmented independently and have one size. Pixels and labels are copied at the
same place, without scaling or blending; a class that is covered entirely is then no target any
more. Semantics: the release of "Frequency-based Matcher for Long-tailed Semantic Segmentation"
(IEEE TMM 2024); after G. Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for
Instance Segmentation" (CVPR 2021). What the release lacks is off by default.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline import transforms
from input_pipeline.resize import resize_label

MODES = ("random", "rare")
# The release pastes fewer classes than this.
_MAX_CLASSES = 100


@dataclasses.dataclass(frozen=True)
class CopyPaste:
  """Pastes the regions of some of the source's classes.

  Attributes:
    ignore_label: label value that is no class.
    mode: "random": n classes, n uniform in [0, min(100, K)) with K the number of classes that may
      be pasted, drawn without replacement (so never all of them: a source with one pastes nothing);
      "rare": all of them that are in `rare_classes`.
    classes: train ids of the classes that may be pasted (the things); empty: all.
    flip: whether the pasted region is mirrored, within its bounding box, half of the time.
    min_scale, max_scale: range of the uniform factor by which the pasted region is resized around
      the centre of its bounding box; what falls outside of the image is cut off. 1 and 1 is off.
    rare_classes: train ids of the image-level rare group, for "rare".
    flip_pairs: train ids that swap under the flip.
  """

  ignore_label: int
  mode: str
  classes: Sequence[int]
  flip: bool
  min_scale: float
  max_scale: float
  rare_classes: Sequence[int] = ()
  flip_pairs: Sequence[tuple[int, int]] = ()

  def __post_init__(self):
    if self.mode not in MODES:
      raise ValueError(f"mode is {self.mode!r}; it must be one of {', '.join(MODES)}.")
    if not 0 < self.min_scale <= self.max_scale:
      raise ValueError(
        f"min_scale is {self.min_scale} and max_scale {self.max_scale}; they must be positive and"
        " in this order."
      )

  def __call__(
    self, example: transforms.Example, source: transforms.Example, rng: np.random.Generator
  ) -> transforms.Example:
    """Returns the example with the regions pasted; neither argument is written to.

    Args:
      example: `image` uint8 [H, W, 3] and `label` uint8 or uint16 [H, W].
      source: example of the same size.
      rng: source of randomness.

    Raises:
      ValueError: if the sizes differ.
    """
    if example["label"].shape != source["label"].shape:
      raise ValueError(
        f"Copy-Paste needs images of one size, got {example['label'].shape} and"
        f" {source['label'].shape} (height, width); pad them before."
      )
    chosen = self.choose(source["label"], rng)
    if not len(chosen):
      return example
    region = _is_one_of(source["label"], chosen)  # [H, W]
    image, label = source["image"], source["label"]
    if self.flip or (self.min_scale, self.max_scale) != (1.0, 1.0):
      image, label, region = self._jitter(image, label, region, rng)
    return _paste(example, image, label, region)

  def choose(self, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the classes of a source's label [H, W] whose regions are pasted, int64 [n]."""
    present = np.flatnonzero(transforms.value_counts(label))
    present = present[present != self.ignore_label]
    if len(self.classes):
      present = present[np.isin(present, self.classes)]
    if self.mode == "rare":
      return present[np.isin(present, self.rare_classes)]
    if not len(present):
      return present
    number = rng.integers(min(_MAX_CLASSES, len(present)))
    return rng.choice(present, number, replace=False)

  def _jitter(
    self, image: np.ndarray, label: np.ndarray, region: np.ndarray, rng: np.random.Generator
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mirrors and resizes the region: (image, label, region) of the same sizes as before."""
    left, top, width, height = cv2.boundingRect(region.view(np.uint8))
    box = np.s_[top : top + height, left : left + width]
    patch = {"image": image[box], "label": label[box]}
    patch_region = region[box].view(np.uint8)
    if self.flip and rng.integers(2):
      patch = transforms.RandomFlip(self.flip_pairs, probability=1.0)(patch, rng)
      patch_region = patch_region[:, ::-1]
    scale = rng.uniform(self.min_scale, self.max_scale)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    top += (height - size[0]) // 2
    left += (width - size[1]) // 2
    resized = cv2.resize(patch["image"], size[::-1], interpolation=cv2.INTER_LINEAR)
    return (
      _place(resized, label.shape, top, left),
      _place(resize_label(patch["label"], *size), label.shape, top, left),
      _place(resize_label(patch_region, *size), label.shape, top, left).view(bool),
    )


def _place(patch: np.ndarray, shape: tuple[int, int], top: int, left: int) -> np.ndarray:
  """Puts a patch into zeros [H, W, ...] at a place that may lie outside in part."""
  first_row, first_column = max(0, -top), max(0, -left)
  patch = patch[first_row : shape[0] - top, first_column : shape[1] - left]
  placed = np.zeros((*shape, *patch.shape[2:]), patch.dtype)
  top, left = max(0, top), max(0, left)
  placed[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
  return placed


def _is_one_of(label: np.ndarray, values: np.ndarray) -> np.ndarray:
  table = np.zeros(np.iinfo(label.dtype).max + 1, bool)
  table[values] = True
  return table[label]


def _paste(
  example: transforms.Example, image: np.ndarray, label: np.ndarray, region: np.ndarray
) -> transforms.Example:
  mask = region.view(np.uint8)
  pasted_image, pasted_label = example["image"].copy(), example["label"].copy()
  cv2.copyTo(image, mask, pasted_image)
  cv2.copyTo(label, mask, pasted_label)
  return {**example, "image": pasted_image, "label": pasted_label}
