"""From score maps to label maps of any size, in bounded memory and with few compilations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Scores of one block of output rows: 64 Mi float32 values, 256 MiB.
_BLOCK_VALUES = 1 << 26


def bilinear_taps(in_size: int, out_size: int, padded_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Where every output row (or column) samples: half-pixel centres, edges clamped.

  Args:
    in_size: rows of the input.
    out_size: rows of the output.
    padded_size: at least out_size; the rest repeats the last row.

  Returns:
    (low int32 [padded_size], weight float32 [padded_size]): the value is
    (1 - weight) * x[low] + weight * x[min(low + 1, in_size - 1)].
  """
  position = (np.arange(padded_size) + 0.5) * (in_size / out_size) - 0.5
  position = np.clip(position, 0.0, in_size - 1.0)
  low = np.floor(position)
  return low.astype(np.int32), (position - low).astype(np.float32)


def _blend(x: jax.Array, low: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
  """Samples one image along one axis: [..., in, ...] -> [..., len(low), ...]."""
  high = jnp.minimum(low + 1, x.shape[axis] - 1)
  shape = [1] * x.ndim
  shape[axis] = -1
  weight = weight.reshape(shape)
  return jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight


def resized_argmax(
  scores: jax.Array, row_taps: tuple[jax.Array, jax.Array], column_taps: tuple[jax.Array, jax.Array]
) -> jax.Array:
  """Argmax over classes of the bilinearly resized scores, without ever holding them all.

  Args:
    scores: [B, h, w, C].
    row_taps: `bilinear_taps` of each image's rows, ([B, H], [B, H]).
    column_taps: likewise of its columns, ([B, W], [B, W]).

  Returns:
    uint16 [B, H, W].
  """
  batch, height = row_taps[0].shape
  row_values = batch * column_taps[0].shape[1] * scores.shape[-1]
  rows = max(1, min(height, _BLOCK_VALUES // row_values))
  padding = -height % rows
  blocks = jax.tree.map(
    lambda x: jnp.moveaxis(
      jnp.pad(x, ((0, 0), (0, padding)), mode="edge").reshape(batch, -1, rows), 1, 0
    ),
    row_taps,
  )  # [H / rows, B, rows]

  @functools.partial(jax.vmap, in_axes=(0, 0, 0))
  def label(scores, rows, columns):
    return jnp.argmax(_blend(_blend(scores, *rows, 0), *columns, 1), axis=-1).astype(jnp.uint16)

  labels = jax.lax.map(lambda block: label(scores, block, column_taps), blocks)
  labels = jnp.moveaxis(labels, 0, 1)  # [B, H / rows, rows, W]
  return labels.reshape(batch, -1, labels.shape[-1])[:, :height]
