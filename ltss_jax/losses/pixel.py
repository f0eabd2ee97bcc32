"""Per-pixel class losses and hard pixel mining, DeepLabV3+'s loss; an auxiliary one."""

import math

import jax
import jax.numpy as jnp

from ltss_jax.losses.class_loss_type import ClassLoss
from ltss_jax.losses.class_losses import CrossEntropy

# Rows of logits that `auxiliary_loss` enlarges at a time, at most: of 847 classes at 512 x 512
# pixels 70 MB an image instead of 0.9 GB.
_BAND_ROWS = 8


def class_loss(
  loss: ClassLoss,
  logits: jax.Array,
  label: jax.Array,
  ignore_label: int,
  counts: jax.Array | None = None,
) -> jax.Array:
  """The class loss of every pixel in float32; ignored pixels give 0.

  Args:
    loss: class loss, whose weights are multiplied in.
    logits: [..., C].
    label: [...] integer class ids; `ignore_label` marks pixels without one.
    ignore_label: id outside 0..C-1.
    counts: labelled pixels of every class so far [C], for a loss that keeps counts.

  Returns:
    [...] float32, none negative.

  Raises:
    ValueError: a loss that keeps counts got none.
  """
  logits = logits.astype(jnp.float32)
  label = label.astype(jnp.int32)
  valid = label != ignore_label
  label = jnp.where(valid, label, 0)
  value, weight = loss(logits, label, counts)
  return jnp.where(valid, value * weight, 0.0)


def cross_entropy(logits: jax.Array, label: jax.Array, ignore_label: int) -> jax.Array:
  """Softmax cross-entropy of every pixel in float32; ignored pixels give 0.

  Args:
    logits: [..., C].
    label: [...] integer class ids; `ignore_label` marks pixels without one.
    ignore_label: id outside 0..C-1.

  Returns:
    [...] float32.
  """
  return class_loss(CrossEntropy(), logits, label, ignore_label)


def label_counts(label: jax.Array, num_classes: int) -> jax.Array:
  """Labelled pixels of every class, over the whole (global) batch.

  Counted as integers, so that the result does not depend on how devices share the batch; below
  2^24 pixels a class, the float32 is exact as well.

  Args:
    label: [B, ...] integer class ids; those beyond the classes, as ignored pixels have, are left
      out.
    num_classes: C.

  Returns:
    [C] float32.
  """

  def of_image(label):
    zeros = jnp.zeros(num_classes, jnp.int32)
    return zeros.at[label.ravel().astype(jnp.int32)].add(1, mode="drop")

  return jax.vmap(of_image)(label).sum(0).astype(jnp.float32)


def kth_largest(values: jax.Array, k: int) -> jax.Array:
  """The k-th largest of non-negative floats, exactly, without sorting or gathering them.

  The bits of a non-negative float32, read as an integer, keep its order. So the value is found
  bit by bit, from the top: a bit stays set while at least k values reach the candidate. On a mesh
  each of the 31 passes needs one sum over devices, whatever the number of values.

  Args:
    values: [...] float32, none negative, k or more of them.
    k: rank from 1.

  Returns:
    float32 scalar.
  """
  bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

  def set_bit(i, threshold):
    candidate = threshold | (1 << (30 - i))
    return jnp.where(jnp.sum(bits >= candidate) >= k, candidate, threshold)

  threshold = jax.lax.fori_loop(0, 31, set_bit, jnp.int32(0))
  return jax.lax.bitcast_convert_type(threshold, jnp.float32)


def hard_pixel_mean(pixel_loss: jax.Array, fraction: float) -> jax.Array:
  """Mean over the hardest pixels of the whole (global) batch.

  Source: DeepLab's hard pixel mining as the release has it (top 20 % of all pixels, where ignored
  pixels contribute 0 but stay in the count); the release takes the top per worker, here the batch
  is one, so that the result does not depend on the number of devices. Pixels that tie with the
  threshold share what is left of k evenly, in value and gradient.

  Args:
    pixel_loss: [...] non-negative float32.
    fraction: share of the pixels that count, in (0, 1].

  Returns:
    float32 scalar: the mean over the k = int(fraction * number of pixels) largest.
  """
  k = max(1, int(fraction * pixel_loss.size))
  if k >= pixel_loss.size:
    return pixel_loss.mean()
  threshold = kth_largest(jax.lax.stop_gradient(pixel_loss), k)
  above = pixel_loss > threshold
  ties = pixel_loss == threshold
  share = (k - jnp.sum(above)) / jnp.sum(ties)
  weight = jnp.where(above, 1.0, jnp.where(ties, share, 0.0))
  return jnp.sum(weight * pixel_loss) / k


def auxiliary_loss(logits: jax.Array, label: jax.Array, ignore_label: int) -> jax.Array:
  """Mean cross-entropy over the labelled pixels of the whole (global) batch.

  The logits are enlarged in bands of rows that the backward pass makes again.

  Args:
    logits: [B, h, w, C] that an auxiliary head gives; enlarged bilinearly.
    label: [B, s h, s w] integer class ids, with a whole factor s.
    ignore_label: id outside 0..C-1 of the pixels that belong to no class.

  Returns:
    float32 scalar; 0 without a labelled pixel.

  Raises:
    ValueError: if the label's size is no multiple of the logits'.
  """
  (batch, height, width, num_classes), rows = logits.shape, math.gcd(logits.shape[1], _BAND_ROWS)
  scale = label.shape[1] // height
  if label.shape[1:] != (scale * height, scale * width):
    raise ValueError(
      f"labels of {label.shape[1:]} pixels do not fit logits of {(height, width)} cells; give "
      "labels of a whole multiple of that size, the same in both directions"
    )
  # One row more on either side of a band is all that its interpolation sees; the outermost repeat.
  padded = jnp.pad(logits.astype(jnp.float32), ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
  shape = (batch, scale * (rows + 2), scale * width, num_classes)

  @jax.checkpoint
  def add_band(sums, band):
    part = jax.lax.dynamic_slice_in_dim(padded, band * rows, rows + 2, axis=1)
    part = jax.image.resize(part, shape, "bilinear", antialias=False)[:, scale:-scale]
    of_band = jax.lax.dynamic_slice_in_dim(label, band * scale * rows, scale * rows, axis=1)
    return sums + cross_entropy(part, of_band, ignore_label).sum((1, 2)), None

  # A sum for each image, so that devices that share the batch meet once, after the loop.
  sums, _ = jax.lax.scan(add_band, jnp.zeros(batch), jnp.arange(height // rows))
  return sums.sum() / jnp.maximum(jnp.sum(label != ignore_label), 1)
