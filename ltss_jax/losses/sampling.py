"""Sampling at the points of many masks, in the way of the platform that a program is compiled for.

Elsewhere by `points`, which gathers single numbers. TPUs cannot gather; there the corners of points
are read by the matrix products of `kernels.corner_values`, and of maps with many channels by those
of `kernels.ms_deform_attn`. Both are quick where points are in the order of their rows (`in_rows`).
"""

import jax
import jax.numpy as jnp
from jax import lax

from kernels.corner_values import corner_values
from kernels.ms_deform_attn import pallas_tpu as deformable_attention
from ltss_jax.losses import points
from ltss_jax.losses.points import LabelMaps, Points


def in_rows(drawn: Points) -> Points:
  """Drawn points [..., K] in the order of their rows on TPUs, and as they are elsewhere."""

  def by_row(drawn):
    return points_of_keys(row_keys(drawn), drawn.x.shape[-1])

  return lax.platform_dependent(drawn, tpu=by_row, default=lambda drawn: drawn)


def row_keys(drawn: Points) -> jax.Array:
  """Numbers that drawn points [..., K] can be sorted by, and read from: [..., K] uint32."""
  x, y = ((coordinate * 65536).astype(jnp.uint32) for coordinate in drawn)
  return y << 16 | x


def points_of_keys(keys: jax.Array, num_points: int) -> Points:
  """The points with the smallest keys [..., K], in their order: [..., num_points]."""
  keys = lax.sort(keys, is_stable=False)[..., :num_points]
  return Points(points.coordinate(keys & 0xFFFF), points.coordinate(keys >> 16))


# The choice stands inside, twice: differentiated as it is, each form would keep what the other's
# gradient needs.
@jax.custom_vjp
def sample_masks(masks: jax.Array, at: Points) -> jax.Array:
  """`points.sample` of masks, each at its own points; differentiable in the masks alone.

  Args:
    masks: [P, H, W] float32.
    at: [P, K] points.

  Returns:
    [P, K] float32.
  """
  return lax.platform_dependent(masks, at, tpu=sample_by_products, default=_sample_by_gathers)


def _sample_masks_forward(masks, at):
  return sample_masks(masks, at), (masks, at)


def _sample_masks_backward(residuals, cotangent):
  def gradient_of(sample):
    def gradient(masks, at, cotangent):
      return jax.vjp(lambda masks: sample(masks, at), masks)[1](cotangent)[0]

    return gradient

  by_products, by_gathers = map(gradient_of, (sample_by_products, _sample_by_gathers))
  gradient = lax.platform_dependent(*residuals, cotangent, tpu=by_products, default=by_gathers)
  return gradient, None


sample_masks.defvjp(_sample_masks_forward, _sample_masks_backward)


def _sample_by_gathers(masks: jax.Array, at: Points) -> jax.Array:
  return jax.vmap(points.sample)(masks, at)


def sample_by_products(
  masks: jax.Array, at: Points, implementation: str = "pallas_tpu"
) -> jax.Array:
  """`sample_masks` by an implementation of `corner_values`."""
  place = points.place(at, *masks.shape[1:])
  corners = corner_values(masks, place.row, place.column, implementation=implementation)
  return points.interpolate(jnp.moveaxis(corners, 1, 0), place.y, place.x)


def sample_queries(mask_logits: jax.Array, at: Points) -> jax.Array:
  """`points.sample` of the masks of all queries at the same points; without gradient.

  Args:
    mask_logits: [H, W, Q] float32.
    at: [K] points.

  Returns:
    [K, Q] float32.
  """
  return lax.platform_dependent(
    mask_logits, at, tpu=sample_queries_by_products, default=points.sample
  )


def sample_queries_by_products(
  mask_logits: jax.Array, at: Points, *, interpret: bool = False
) -> jax.Array:
  """`sample_queries` as deformable attention of one head and one point, by the kernel for TPUs."""
  height, width, queries = mask_logits.shape
  value = mask_logits.reshape(1, height * width, 1, queries)
  locations = jnp.stack(at, axis=-1)[None, :, None, None, None]  # [1, K, 1, 1, 1, 2]
  weights = jnp.ones(locations.shape[:-1], jnp.float32)
  shapes = ((height, width),)
  forward = deformable_attention.forward
  return forward(value, shapes, locations, weights, interpret=interpret)[0]


def label_values(labels: LabelMaps, image: jax.Array, classes: jax.Array, at: Points) -> jax.Array:
  """`points.label_values` at P sets of points, of P images.

  Args:
    labels: label maps.
    image: [P] int32, the image of the batch to read.
    classes: [P] or [P, T] int32 class ids.
    at: [P, K] points.

  Returns:
    [P, K] or [P, K, T] float32 in [0, 1].
  """
  by_gathers = jax.vmap(points.label_values, (None, 0, 0, 0))
  return lax.platform_dependent(
    labels, image, classes, at, tpu=label_values_by_products, default=by_gathers
  )


def label_values_by_products(
  labels: LabelMaps,
  image: jax.Array,
  classes: jax.Array,
  at: Points,
  implementation: str = "pallas_tpu",
) -> jax.Array:
  """`label_values` by an implementation of `corner_values`."""
  place = points.place(at, *labels.codes.shape[1:])
  corners = corner_values(
    labels.codes, place.row, place.column, which=image, implementation=implementation
  )  # [P, 4, K]
  several = classes.ndim - 1
  y, x = (jnp.expand_dims(distance, 2) if several else distance for distance in place[2:])
  code = points.code_of(jnp.expand_dims(classes, 1))  # [P, 1] or [P, 1, T]

  def is_class(corner: jax.Array) -> jax.Array:
    return ((corner[..., None] if several else corner) == code).astype(jnp.float32)

  return points.interpolate([is_class(corners[:, i]) for i in range(4)], y, x)
