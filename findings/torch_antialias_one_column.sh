#!/usr/bin/env bash
# torch: an anti-aliased resize to an output of one column repeats its first row.
#
# Every row of the result gets the weights and the pixels of the first one. A column of 0 to 7 that is
# resized to four rows comes out as 0.71, 0.71, 0.71, 0.71 in place of 0.71, 2.5, 4.5, 6.29, which
# the same numbers as a row give. It is so for bilinear and bicubic, float32 and float64, on the CPU,
# and whatever the width was before. bytes are right, and so is the resize without anti-aliasing.
# Nothing warns. Position tables, masks and maps of very thin images take this path, and so does
# torchvision's resize.
#
# This project resizes by a matrix along each axis (ltss_jax/models/bicubic.py), which knows no such
# case, and is compared with torch at widths above one.
#
# Seen with torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import interpolate

kw = dict(mode="bilinear", antialias=True)
column = torch.arange(8.0).reshape(1, 1, 8, 1)
as_column = interpolate(column, size=(4, 1), **kw).flatten()
as_row = interpolate(column.transpose(2, 3), size=(1, 4), **kw).flatten()
from_three = interpolate(column.expand(1, 1, 8, 3), size=(4, 1), **kw).flatten()
for what, values in (("as a column", as_column), ("as a row", as_row), ("of three", from_three)):
  print(f"{what}: {[round(v, 2) for v in values.tolist()]}")
assert torch.equal(as_column, as_row[:1].expand(4))
assert torch.equal(from_three, as_column)
assert as_row.diff().min() > 1.7
PYTHON
