"""Multi-scale deformable attention by torch's `grid_sample`, with gradients.

Run from the repository: python -m tests.golden.ms_deform_attn_torch   writes ms_deform_attn.npz
(made with torch 2.15).

The formulation is the one of Deformable DETR's `ms_deform_attn_core_pytorch`, which the
`transformers` package uses too.
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

SPATIAL_SHAPES = ((3, 5), (7, 6), (9, 14))
BATCH, QUERIES, HEADS, DIM, POINTS = 2, 11, 3, 16, 4


def ms_deform_attn(
  value: torch.Tensor,
  spatial_shapes: tuple[tuple[int, int], ...],
  sampling_locations: torch.Tensor,
  attention_weights: torch.Tensor,
) -> torch.Tensor:
  """Arguments and result as `kernels.ms_deform_attn.ms_deform_attn`."""
  batch, _, heads, dim = value.shape
  queries = attention_weights.shape[1]
  sampled = []
  maps = value.split([height * width for height, width in spatial_shapes], dim=1)
  for level, ((height, width), feature) in enumerate(zip(spatial_shapes, maps, strict=True)):
    feature = feature.permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
    grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
    sampled.append(
      functional.grid_sample(
        feature, grid, mode="bilinear", padding_mode="zeros", align_corners=False
      )
    )  # [B * H, D, Q, P]
  weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
  output = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # [B * H, D, Q]
  return output.reshape(batch, heads * dim, queries).transpose(1, 2).contiguous()


def with_gradients(spatial_shapes, value, locations, weights, cotangent) -> dict[str, np.ndarray]:
  """The output for numpy arguments and its gradients by them for a cotangent of the output."""
  arguments = [torch.tensor(array, requires_grad=True) for array in (value, locations, weights)]
  output = ms_deform_attn(arguments[0], spatial_shapes, *arguments[1:])
  output.backward(torch.tensor(cotangent))
  names = ("value_gradient", "locations_gradient", "weights_gradient")
  gradients = (argument.grad.numpy() for argument in arguments)
  return {"output": output.detach().numpy(), **dict(zip(names, gradients, strict=True))}


def main() -> None:
  """Writes arguments and results, computed in float64 and stored as float32."""
  rng = np.random.default_rng(0)
  length = sum(height * width for height, width in SPATIAL_SHAPES)
  shape = (BATCH, QUERIES, HEADS, len(SPATIAL_SHAPES), POINTS)
  sizes = np.array(SPATIAL_SHAPES)[:, None, ::-1]
  # Away from pixel centres, where the derivative jumps; up to two pixels off the map.
  pixels = rng.integers(-3, sizes + 2, size=(*shape, 2)) + rng.uniform(0.05, 0.95, (*shape, 2))
  arguments = {
    "value": rng.normal(size=(BATCH, length, HEADS, DIM)),
    "locations": (pixels + 0.5) / sizes,
    "weights": rng.dirichlet(np.ones(len(SPATIAL_SHAPES) * POINTS), shape[:3]).reshape(shape),
    "cotangent": rng.normal(size=(BATCH, QUERIES, HEADS * DIM)),
  }
  # Rounded before they are used: results are then exact for what is stored.
  arguments = {name: array.astype(np.float32) for name, array in arguments.items()}
  double = {name: array.astype(np.float64) for name, array in arguments.items()}
  results = with_gradients(SPATIAL_SHAPES, *double.values())
  results = {name: array.astype(np.float32) for name, array in results.items()}
  path = pathlib.Path(__file__).with_name("ms_deform_attn.npz")
  np.savez_compressed(path, spatial_shapes=SPATIAL_SHAPES, **arguments, **results)


if __name__ == "__main__":
  main()
