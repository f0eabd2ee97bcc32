"""Named shapes of deformable attention as the models call it, for tests and benchmarks."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArgSpec:
  """Shapes of one call, in which every position of the maps is a query.

  Attributes:
    spatial_shapes: (height, width) of each level, coarse to fine as in Mask2Former's pixel decoder.
    batch: number of images B.
    heads: H.
    dim: D, features of each head.
    points: P, sampled points of each head and level.
  """

  spatial_shapes: tuple[tuple[int, int], ...]
  batch: int = 1
  heads: int = 8
  dim: int = 32
  points: int = 4

  @property
  def length(self) -> int:
    """Positions of all levels, S, and number of queries, Q."""
    return sum(height * width for height, width in self.spatial_shapes)


ARG_SPECS = {
  # Training crops of 512 and 640 (ADE20K), strides 32, 16 and 8.
  "crop_512": ArgSpec(((16, 16), (32, 32), (64, 64))),
  "crop_640": ArgSpec(((20, 20), (40, 40), (80, 80))),
  # Swin-L's share of a batch of 16 images on 8 devices.
  "swin_l_640": ArgSpec(((20, 20), (40, 40), (80, 80)), batch=2),
  # A photograph at evaluation, 512 x 688.
  "eval_512x688": ArgSpec(((16, 22), (32, 43), (64, 86))),
  # No size divides another.
  "odd": ArgSpec(((17, 23), (34, 46), (67, 91))),
  "tiny": ArgSpec(((2, 3), (4, 6), (8, 12)), batch=2, heads=2, dim=16),
}


def select(names: Sequence[str]) -> dict[str, ArgSpec]:
  """Returns the named shapes, for the commands that take names.

  Raises:
    SystemExit: there are no such shapes.
  """
  unknown = sorted(set(names) - set(ARG_SPECS))
  if unknown:
    raise SystemExit(f"no such shapes: {unknown}; choose from {sorted(ARG_SPECS)}")
  return {name: ARG_SPECS[name] for name in names}


def make_arguments(
  spec: ArgSpec, *, seed: int = 0, spread: float | None = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws arguments like those of a pixel decoder: points around each query's own place.

  Args:
    spec: the shapes.
    seed: seed of the random numbers.
    spread: standard deviation of the points around the query, in pixels of their level; None for
      the pattern of a freshly initialised layer (head h looks along the angle 2 pi h / H, point p
      at p + 1 pixels), with equal attention weights.

  Returns:
    float32 arrays `value` `[B, S, H, D]`, `sampling_locations` `[B, S, H, L, P, 2]` and
    `attention_weights` `[B, S, H, L, P]`, which sum to 1 over levels and points.
  """
  rng = np.random.default_rng(seed)
  sizes = np.asarray(spec.spatial_shapes)[:, ::-1]  # [L, 2], x first
  centres = [
    np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), axis=-1)
    for h, w in spec.spatial_shapes
  ]
  reference = np.concatenate([grid.reshape(-1, 2) for grid in centres])  # [S, 2]
  shape = (spec.batch, spec.length, spec.heads, len(sizes), spec.points)
  if spread is None:
    angle = 2 * np.pi * np.arange(spec.heads) / spec.heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(axis=-1, keepdims=True)
    offsets = direction[:, None, None] * np.arange(1, spec.points + 1)[:, None]
    logits = np.zeros(shape)
  else:
    offsets = spread * rng.normal(size=(*shape, 2))
    logits = rng.normal(size=shape)
  locations = reference[:, None, None, None] + offsets / sizes[:, None]
  weights = np.exp(logits)
  weights /= weights.sum(axis=(-2, -1), keepdims=True)
  value = rng.normal(size=(spec.batch, spec.length, spec.heads, spec.dim))
  arrays = value, np.broadcast_to(locations, (*shape, 2)), weights
  return tuple(np.ascontiguousarray(array, np.float32) for array in arrays)
