#!/usr/bin/env bash
# TIFFs of 16 bits a channel that keep their channels apart (PlanarConfiguration 2) come back as other
# pixels, without an error.
#
# Seen with Pillow 13.0.0, OpenCV 5.0.0.93 and, as the reader that is right, tifffile 2026.3.3:
#   8 bits: all three agree. 16 bits, uncompressed: OpenCV and Pillow give other values. 16 bits,
#   deflated: OpenCV does, Pillow gives the upper bytes.
# So this project refuses such files by name (docs/data.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 tifffile==2026.3.3
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import numpy as np
import tifffile
from PIL import Image


def shares(image, compression):
  """Shares of the values that tifffile, OpenCV and Pillow (by its upper bytes) read as written."""
  file = io.BytesIO()
  planes = image.transpose(2, 0, 1)
  tifffile.imwrite(
    file, planes, photometric="rgb", planarconfig="separate", compression=compression
  )
  upper = (image >> 8 if image.dtype == np.uint16 else image).astype(np.uint8)
  data = file.getvalue()
  by_tifffile = tifffile.imread(io.BytesIO(data)).transpose(1, 2, 0)
  by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
  by_pillow = np.asarray(Image.open(io.BytesIO(data)))
  pairs = (by_tifffile, image), (by_opencv, image), (by_pillow, upper)
  return [float(np.mean(read == written)) for read, written in pairs]


image = np.random.default_rng(0).integers(0, 65536, (40, 60, 3), np.uint16)
seen = {
  "8 bits": shares((image >> 8).astype(np.uint8), None),
  "16 bits": shares(image, None),
  "16 bits, deflated": shares(image, "zlib"),
}
for kind, equal in seen.items():
  print(f"{kind}: equal with tifffile {equal[0]:.3f}, OpenCV {equal[1]:.3f}, Pillow {equal[2]:.3f}")
assert seen["8 bits"] == [1, 1, 1]
assert seen["16 bits"][0] == 1 and max(seen["16 bits"][1:]) < 0.05
assert seen["16 bits, deflated"][::2] == [1, 1] and seen["16 bits, deflated"][1] < 0.05
PYTHON
