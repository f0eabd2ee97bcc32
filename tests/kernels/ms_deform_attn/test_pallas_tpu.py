"""What is particular to the TPU kernels: maps that are dealt to several calls."""

import jax
import numpy as np

from kernels.ms_deform_attn import pallas_tpu, tpu_layout

SHAPES = ((5, 7), (20, 30))


def test_maps_that_do_not_fit_are_cut_into_bands(monkeypatch):
  """Several calls give what one gives, but for the order of additions."""
  rng = np.random.default_rng(0)
  value = rng.normal(size=(1, 635, 2, 16)).astype(np.float32)
  locations = rng.uniform(-0.2, 1.2, (1, 150, 2, 2, 3, 2)).astype(np.float32)
  weights = rng.normal(size=(1, 150, 2, 2, 3)).astype(np.float32)
  cotangent = rng.normal(size=(1, 150, 32)).astype(np.float32)

  def run():
    @jax.jit
    def both(value, *arrays):
      output = pallas_tpu.forward(value, SHAPES, *arrays[:2], interpret=True)
      return output, pallas_tpu.backward(value, SHAPES, *arrays, interpret=True)

    return jax.tree.leaves(both(value, locations, weights, cotangent))

  whole = run()
  monkeypatch.setattr(pallas_tpu, "RESIDENT_BYTES", 60_000)
  smallest = 16 * 4  # bytes of a position in either pass
  assert len(tpu_layout.deal(SHAPES, lambda k: smallest * k, 60_000)) > 1
  for one, several in zip(whole, run(), strict=True):
    np.testing.assert_allclose(several, one, atol=2e-6 * np.abs(one).max())
