"""Per-pixel cross-entropy and hard pixel mining, DeepLabV3+'s loss."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, label: jax.Array, ignore_label: int) -> jax.Array:
  """Softmax cross-entropy of every pixel in float32; ignored pixels give 0.

  Args:
    logits: [..., C].
    label: [...] integer class ids; `ignore_label` marks pixels without one.
    ignore_label: id outside 0..C-1.

  Returns:
    [...] float32.
  """
  logits = logits.astype(jnp.float32)
  label = label.astype(jnp.int32)
  valid = label != ignore_label
  picked = jnp.take_along_axis(logits, jnp.where(valid, label, 0)[..., None], axis=-1)[..., 0]
  return jnp.where(valid, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)


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
