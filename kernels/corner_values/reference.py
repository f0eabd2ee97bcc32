"""The definition of `corner_values`, by gathers."""

import jax
import jax.numpy as jnp


def forward(
  maps: jax.Array, which: jax.Array | None, row: jax.Array, column: jax.Array
) -> jax.Array:
  """Computes `[N, 4, K]`; arguments as of `corner_values`."""
  height, width = maps.shape[1:]
  if which is None:
    which = jnp.arange(len(maps))

  def corner(i: int, j: int) -> jax.Array:
    y, x = row + i, column + j
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    values = maps[which[:, None], jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)]
    return jnp.where(inside, values, 0)  # [N, K]

  return jnp.stack([corner(i, j) for i in (0, 1) for j in (0, 1)], axis=1)
