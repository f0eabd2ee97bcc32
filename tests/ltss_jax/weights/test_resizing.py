"""Position tables and patch kernels resized, by hand and against torch and timm."""

import numpy as np
import pytest

from ltss_jax.models import bicubic
from ltss_jax.weights import resizing


def test_table_by_hand():
  # A row of one is constant; twice as many cells of (0, 1) at -0.25 and 0.25 from the first cell,
  # clamped: weights of cubic convolution with a = -0.75 at distances 0.25 and 0.75, 1.25, 1.75.
  near, far = 0.87890625, 0.26171875
  outer, outmost = -0.10546875, -0.03515625
  table = np.array([[0.0], [1.0], [0.0], [1.0]])  # [2, 2]: columns 0 and 1
  resized = resizing.resize_table(table, 16, antialias=False).reshape(4, 4)
  # Column 0 lies at -0.25: cells -2 .. 1 at distances 1.75, 0.75, 0.25, 1.25; only cell 1 is 1.
  # Column 1 lies at 0.25: cells -1 .. 2 at distances 1.25, 0.25, 0.75, 1.75.
  row = [outer, far + outmost, 1 - far - outmost, 1 - outer]
  np.testing.assert_allclose(resized, np.tile(row, (4, 1)), atol=1e-6)
  assert near + far + outer + outmost == 1
  with pytest.raises(ValueError, match="a position table of 5 entries cannot become one of 16"):
    resizing.resize_table(np.zeros((5, 1)), 16, antialias=False)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("side", "new_side"), [(13, 23), (23, 13), (14, 20)])
def test_table_is_torchs(side, new_side, antialias):
  torch = pytest.importorskip("torch")
  table = np.random.default_rng(0).standard_normal((side * side, 3)).astype(np.float32)
  square = torch.from_numpy(table.T.reshape(1, 3, side, side))
  judge = torch.nn.functional.interpolate(
    square, size=(new_side, new_side), mode="bicubic", antialias=antialias
  )
  expected = judge.numpy().reshape(3, -1).T
  resized = resizing.resize_table(table, new_side**2, antialias=antialias)
  # Float32 round-off, also of torch's sample positions, which shifts a sample by about 1e-6 cells.
  np.testing.assert_allclose(resized, expected, atol=2e-5)


@pytest.mark.parametrize(("size", "new_size"), [((14, 14), (16, 16)), ((3, 5), (4, 5))])
def test_an_enlarged_patch_is_seen_as_before(size, new_size):
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((4, 3, *size)).astype(np.float32)
  patch = rng.standard_normal((3, *size))
  rows, columns = (bicubic.antialiased_matrix(*pair) for pair in zip(size, new_size, strict=True))
  enlarged = np.einsum("yi,xj,cij->cyx", rows, columns, patch)
  resized = resizing.resize_patch_kernel(kernel, *new_size)
  assert resized.shape == (4, 3, *new_size)
  seen = [np.einsum("ocij,cij->o", *pair) for pair in ((kernel, patch), (resized, enlarged))]
  np.testing.assert_allclose(seen[1], seen[0], atol=1e-4)  # sums of 768 products of float32 weights


@pytest.mark.parametrize(("size", "new_size"), [(14, 16), (8, 16), (32, 16)])
def test_patch_kernel_is_timms(size, new_size):
  torch = pytest.importorskip("torch")
  timm_layers = pytest.importorskip("timm.layers.patch_embed")
  kernel = np.random.default_rng(0).standard_normal((8, 3, size, size)).astype(np.float32)
  judge = timm_layers.resample_patch_embed(torch.from_numpy(kernel), [new_size, new_size])
  # timm inverts in float32, of which 1.5e-5 was seen at magnitudes of 12 (size 32).
  resized = resizing.resize_patch_kernel(kernel, new_size, new_size)
  np.testing.assert_allclose(resized, judge.numpy(), atol=1e-4)
