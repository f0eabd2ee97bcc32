"""Cubic resizes against values worked out by hand and against torch's."""

import numpy as np
import pytest

from ltss_jax.models import bicubic


def test_matrix_by_hand():
  # Half way between two cells: 0.59375 of each neighbour, -0.09375 of the next ones, clamped.
  doubled = bicubic.matrix(1, 2)
  np.testing.assert_allclose(doubled, [[1], [1]], rtol=1e-6)
  middle = bicubic.matrix(4, 1)
  np.testing.assert_allclose(middle, [[-0.09375, 0.59375, 0.59375, -0.09375]], rtol=1e-6)
  np.testing.assert_array_equal(bicubic.matrix(5, 5), np.eye(5))


def test_antialiased_matrix_by_hand():
  # Of four cells to two, the kernel is twice as wide: the first lies at 0.5, from which the cells
  # are 0.25, 0.25, 0.75 and 1.25 kernel widths away. a = -0.5: 1.5 t^3 - 2.5 t^2 + 1 up to 1,
  # beyond -0.5 (t^3 - 5 t^2 + 8 t - 4).
  near, far, outer = 0.8671875, 0.2265625, -0.0703125
  row = np.array([near, near, far, outer]) / (2 * near + far + outer)
  np.testing.assert_allclose(bicubic.antialiased_matrix(4, 2), [row, row[::-1]], rtol=1e-12)
  # Of two to four, the first lies at -0.25: nothing lies left of cell 0, so that is all there is.
  np.testing.assert_allclose(
    bicubic.antialiased_matrix(2, 4)[0], np.array([near, outer]) / (near + outer), rtol=1e-12
  )
  np.testing.assert_array_equal(bicubic.antialiased_matrix(5, 5), np.eye(5))


@pytest.mark.parametrize(("size", "out_size"), [(37, 8), (37, 32), (14, 16), (37, 40), (3, 1)])
def test_antialiased_matrix_is_torchs(size, out_size):
  torch = pytest.importorskip("torch")
  # Two columns: of one, torch 2.13 repeats the first row (findings/torch_antialias_one_column.sh).
  columns = torch.eye(size, dtype=torch.float64)[:, None, :, None].repeat(1, 1, 1, 2)
  judge = torch.nn.functional.interpolate(
    columns, size=(out_size, 2), mode="bicubic", antialias=True
  )
  matrix = bicubic.antialiased_matrix(size, out_size)
  np.testing.assert_allclose(matrix, judge[:, 0, :, 0].numpy().T, atol=1e-14)  # both in float64
