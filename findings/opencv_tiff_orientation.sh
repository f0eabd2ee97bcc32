#!/usr/bin/env bash
# OpenCV turns TIFFs by their orientation whatever is asked for: IMREAD_IGNORE_ORIENTATION and
# IMREAD_UNCHANGED, which leave a JPEG as it is stored, do nothing. Who turns the result by the tag, as
# after reading a JPEG so, turns it twice.
#
# Seen with OpenCV 5.0.0.93: 4 rows and 6 columns with orientation 6 come back as 6 rows and 4 columns
# under every flag from a TIFF, and under IMREAD_COLOR alone from a JPEG.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'PYTHON'
import io

import cv2
import numpy as np
from PIL import ExifTags, Image

FLAGS = {
  "IMREAD_COLOR": cv2.IMREAD_COLOR,
  "IMREAD_COLOR | IMREAD_IGNORE_ORIENTATION": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
  "IMREAD_UNCHANGED": cv2.IMREAD_UNCHANGED,
}
exif = Image.Exif()
exif[ExifTags.Base.Orientation] = 6
for kind, expected in (("TIFF", (6, 6, 6)), ("JPEG", (6, 4, 4))):
  file = io.BytesIO()
  Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, kind, exif=exif)
  data = np.frombuffer(file.getvalue(), np.uint8)
  rows = tuple(cv2.imdecode(data, flags).shape[0] for flags in FLAGS.values())
  print(f"{kind}: rows", dict(zip(FLAGS, rows)))
  assert rows == expected
PYTHON
