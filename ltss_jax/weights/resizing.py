"""Resizes position tables and patch kernels of weights to another grid and another patch."""

import math

import numpy as np

from ltss_jax.models import bicubic


def resize_table(table: np.ndarray, cells: int, *, antialias: bool) -> np.ndarray:
  """Resizes a table of a square map bicubically, as torch does.

  Args:
    table: [S * S, C], row-major.
    cells: number of cells of the result, a square number.
    antialias: whether as with anti-aliasing: a = -0.5 in place of -0.75, and borders weigh less
      instead of being repeated.

  Returns:
    [cells, C] float32.

  Raises:
    ValueError: the table is not square.
  """
  side, new_side = math.isqrt(len(table)), math.isqrt(cells)
  if side**2 != len(table) or new_side**2 != cells:
    raise ValueError(f"a position table of {len(table)} entries cannot become one of {cells}")
  square = np.asarray(table, np.float32).reshape(side, side, -1)
  weights = (bicubic.antialiased_matrix if antialias else bicubic.matrix)(side, new_side)
  with np.errstate(invalid="ignore"):  # a table that is not finite is refused where it is taken
    resized = np.einsum("yi,xj,ijc->yxc", weights, weights, square, optimize=True)
  return resized.reshape(cells, -1).astype(np.float32)


def resize_patch_kernel(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes a patch projection so that it sees in a resized patch what it saw before.

  An enlarged patch is A p, with A the anti-aliased bicubic resize. The new kernel is the one of
  least norm whose product with A p is closest to the old kernel's product with p: pinv(A)^T k.
  A is a Kronecker product of a resize of columns and one of rows, and so is its pseudo-inverse.
  Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, section 3.4.

  Args:
    kernel: [O, I, kh, kw].
    height: kh of the result.
    width: kw of the result.

  Returns:
    [O, I, height, width] float32.
  """
  rows, columns = (
    np.linalg.pinv(bicubic.antialiased_matrix(size, out_size))  # [size, out_size]
    for size, out_size in zip(kernel.shape[2:], (height, width), strict=True)
  )
  with np.errstate(invalid="ignore"):
    resized = np.einsum(
      "iy,jx,ocij->ocyx", rows, columns, np.asarray(kernel, np.float32), optimize=True
    )
  return resized.astype(np.float32)
