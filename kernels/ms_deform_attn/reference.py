"""The definition of multi-scale deformable attention, slow and obvious.

Zhu et al., "Deformable DETR" (arXiv:2010.04159), equation 3; the sampling is that of torch's
`grid_sample(mode="bilinear", padding_mode="zeros", align_corners=False)`.
"""

import jax
import jax.numpy as jnp


def sample_bilinear(feature: jax.Array, location: jax.Array) -> jax.Array:
  """Samples one map bilinearly at normalised locations; zero outside the map.

  Args:
    feature: `[H, W, D]`.
    location: `[..., 2]`, (x, y); 0 and 1 are the outer edges of the map, so the centre of
      column i lies at (i + 0.5) / W.

  Returns:
    `[..., D]`. On a pixel centre, the derivative by the location is the one to the right of it.
  """
  height, width, _ = feature.shape
  x = location[..., 0] * width - 0.5
  y = location[..., 1] * height - 0.5
  left, top = jnp.floor(x), jnp.floor(y)
  total = 0.0
  for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
    for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
      inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
      # Clipped as floats: what lies far outside does not fit an int32.
      i = jnp.clip(row, 0, height - 1).astype(jnp.int32)
      j = jnp.clip(column, 0, width - 1).astype(jnp.int32)
      weight = jnp.where(inside, row_weight * column_weight, 0)
      total = total + weight[..., None] * feature[i, j]
  return total


def forward(
  value: jax.Array,
  spatial_shapes: tuple[tuple[int, int], ...],
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
) -> jax.Array:
  """Computes `ms_deform_attn` level by level as its formula says; arguments as there."""
  batch, _, heads, dim = value.shape
  queries = sampling_locations.shape[1]
  dtype = value.dtype
  compute = jnp.promote_types(dtype, jnp.float32)
  value = value.astype(compute)
  locations = sampling_locations.astype(compute)
  weights = attention_weights.astype(compute)
  over_heads = jax.vmap(sample_bilinear, in_axes=(2, 1), out_axes=1)
  over_batch = jax.vmap(over_heads)

  output = jnp.zeros((batch, queries, heads, dim), compute)
  start = 0
  for level, (height, width) in enumerate(spatial_shapes):
    feature = value[:, start : start + height * width]
    feature = feature.reshape(batch, height, width, heads, dim)
    sampled = over_batch(feature, locations[:, :, :, level])  # [B, Q, H, P, D]
    output += jnp.einsum("bqhp,bqhpd->bqhd", weights[:, :, :, level], sampled)
    start += height * width
  return output.reshape(batch, queries, heads * dim).astype(dtype)


def backward(
  value: jax.Array,
  spatial_shapes: tuple[tuple[int, int], ...],
  sampling_locations: jax.Array,
  attention_weights: jax.Array,
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the gradients of the three arrays from the output's, by differentiation."""

  def of_arrays(value, *arrays):
    return forward(value, spatial_shapes, *arrays)

  _, pull = jax.vjp(of_arrays, value, sampling_locations, attention_weights)
  return pull(cotangent)
