#!/usr/bin/env bash
# Of a TIFF with an orientation that swaps its sides, Pillow's Image.size is that of the upright image
# before anything was decoded, while getexif() still holds the orientation. Who swaps the sides by the
# orientation, as is right for a JPEG, gets those of no image.
#
# Seen with Pillow 13.0.0: an image of 4 rows and 6 columns with orientation 6 has, as TIFF, the size
# (4, 6) and the orientation 6 before load(), the size (4, 6) and none after it; as JPEG the size (6, 4)
# and the orientation 6 before and after. (Pillow gives width, height.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
from PIL import ExifTags, Image

TAG = ExifTags.Base.Orientation
exif = Image.Exif()
exif[TAG] = 6
seen = {}
for kind in ("TIFF", "JPEG"):
  file = io.BytesIO()
  Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, kind, exif=exif)
  with Image.open(file) as image:
    before = image.size, image.getexif().get(TAG)
    image.load()
    seen[kind] = before, (image.size, image.getexif().get(TAG))
  print(f"{kind}: before load() {seen[kind][0]}, after it {seen[kind][1]}")
assert seen["TIFF"] == (((4, 6), 6), ((4, 6), None))
assert seen["JPEG"] == (((6, 4), 6), ((6, 4), 6))
PYTHON
