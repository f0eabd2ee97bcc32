#!/usr/bin/env bash
# Grey TIFFs in which 0 is white (PhotometricInterpretation 0) are turned to "0 is black" where they
# have 8 bits and are not where they have 16: the same picture comes back as its negative.
#
# Seen with Pillow 13.0.0 and OpenCV 5.0.0.93, both alike; the files are written by tifffile 2026.3.3.
# So this project looks at the tag itself (docs/data.md).
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

for dtype in (np.uint8, np.uint16):
  largest = np.iinfo(dtype).max
  stored = np.random.default_rng(0).integers(0, largest, (4, 6), dtype, endpoint=True)
  file = io.BytesIO()
  tifffile.imwrite(file, stored, photometric="miniswhite")
  read = {
    "Pillow": np.asarray(Image.open(io.BytesIO(file.getvalue()))),
    "OpenCV": cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED),
  }
  for name, image in read.items():
    as_stored, inverted = np.array_equal(image, stored), np.array_equal(image, largest - stored)
    print(f"{name}, {dtype.__name__}: as stored {as_stored}, inverted {inverted}")
    assert (as_stored, inverted) == (dtype is np.uint16, dtype is np.uint8)
PYTHON
