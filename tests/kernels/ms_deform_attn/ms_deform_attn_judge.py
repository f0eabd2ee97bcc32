"""Multi-scale deformable attention and its gradients, literally, in float64 numpy."""

import numpy as np


def ms_deform_attn(value, spatial_shapes, locations, weights, cotangent) -> dict[str, np.ndarray]:
  """Adds up every corner of every point; the arguments and results of the golden file."""
  value, locations, weights, cotangent = (
    np.asarray(array, np.float64) for array in (value, locations, weights, cotangent)
  )
  batch, queries, heads, _, points = weights.shape
  cotangent = cotangent.reshape(batch, queries, heads, -1)
  output = np.zeros_like(cotangent)
  gradients = {"value": np.zeros_like(value), "locations": np.zeros_like(locations)}
  gradients["weights"] = np.zeros_like(weights)
  b, q, h = np.ogrid[:batch, :queries, :heads]
  start = 0
  for level, (height, width) in enumerate(spatial_shapes):
    for point in range(points):
      x, y = np.moveaxis(locations[:, :, :, level, point] * (width, height) - 0.5, -1, 0)
      for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
          inside = (0 <= row) & (row < height) & (0 <= column) & (column < width)
          position = start + np.where(inside, row * width + column, 0).astype(int)
          corner = value[b, position, h] * inside[..., None]  # [B, Q, H, D]
          weight = weights[:, :, :, level, point]
          bilinear = (1 - abs(y - row)) * (1 - abs(x - column))
          dot = (corner * cotangent).sum(-1)
          # Toward the right of a pixel centre, the weight of the corner on it falls.
          x_slope, y_slope = np.where(column > x, 1, -1), np.where(row > y, 1, -1)
          by_x = x_slope * (1 - abs(y - row)) * width
          by_y = y_slope * (1 - abs(x - column)) * height

          output += (weight * bilinear)[..., None] * corner
          update = (weight * bilinear * inside)[..., None] * cotangent
          np.add.at(gradients["value"], (b, position, h), update)
          gradients["weights"][:, :, :, level, point] += bilinear * dot
          slope = np.stack([by_x, by_y], axis=-1) * (weight * dot)[..., None]
          gradients["locations"][:, :, :, level, point] += slope
    start += height * width
  results = {f"{name}_gradient": gradient for name, gradient in gradients.items()}
  return {"output": output.reshape(batch, queries, -1), **results}
