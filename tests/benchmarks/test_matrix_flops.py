"""Counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from benchmarks.matrix_flops import matrix_flops
from ltss_jax import mesh as mesh_lib

X, W = np.zeros((8, 3)), np.zeros((3, 3))
ONE = 2 * 8 * 3 * 3


def count(function, *arguments, devices=1):
  return matrix_flops(jax.make_jaxpr(function)(*arguments).jaxpr, devices)


def test_products_and_their_gradients():
  assert count(lambda x, w: jnp.sin(x @ w), X, W) == ONE
  assert count(jax.grad(lambda w, x: jnp.sin(x @ w).sum()), W, X) == 2 * ONE  # forward, of w
  assert count(lambda x: jnp.einsum("bqc,bkc->bqk", x, x), np.zeros((2, 5, 7))) == 2 * 2 * 5 * 5 * 7


def test_convolutions():
  image, kernel = np.zeros((1, 6, 6, 4)), np.zeros((3, 3, 4, 5))

  def convolve(image, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)

  assert count(convolve, image, kernel) == 2 * 36 * 5 * 9 * 4


def test_what_runs_several_times_counts_so():
  def recomputed(w, x):
    return jax.checkpoint(lambda w: jnp.sin(jnp.sin(x @ w) @ w).sum())(w)

  # Two forwards (the second product is not needed again), and of each product the gradient of w,
  # of the second also that of its operand.
  assert count(jax.grad(recomputed), W, X) == (2 + 2 + 3) * ONE

  def looped(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]

  assert count(looped, X, W) == 5 * ONE
  assert count(lambda p, x, w: jax.lax.cond(p, lambda: x @ w, lambda: x), True, X, W) == ONE


def test_every_device_runs_its_part():
  mesh = mesh_lib.data_mesh(jax.devices()[:4], fsdp=4)
  spec = PartitionSpec("fsdp")
  product = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec
  )
  assert count(jax.jit(product), X, W, devices=4) == ONE
