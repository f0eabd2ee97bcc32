#!/usr/bin/env bash
# EoMT's windows may leave the last row or column of an image out: they start at int(j * (S - o)), and
# for some lengths the last product is 450.99... instead of 451. The release divides 0 scores by 0
# windows there; transformers' EomtImageProcessor and EomtImageProcessorPil divide by 1 and give the
# pixels class 0, whatever the model says.
#
# Seen with EomtImageProcessorPil of transformers 5.24.0, windows of 224 px and an image of 224 x 675: a
# model that says class 3 everywhere is read as class 3, but for the last column, which is class 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 pillow==13.0.0 torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import types

import numpy as np
import torch
from transformers import EomtImageProcessorPil

SIZE = {"shortest_edge": 224, "longest_edge": None}
processor = EomtImageProcessorPil(size=SIZE, do_split_image=True)
for width in (674, 675):
  image = np.zeros((224, width, 3), np.uint8)
  inputs = processor(image, return_tensors="pt")
  windows = len(inputs["pixel_values"])
  ends = [int(end) for _, _, end in inputs["patch_offsets"]]
  # One query, of class 3 of 5, whose mask is the whole window.
  outputs = types.SimpleNamespace(
    masks_queries_logits=torch.full((windows, 1, 56, 56), 9.0),
    class_queries_logits=torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0, 0.0]).expand(windows, 1, 6),
    patch_offsets=inputs["patch_offsets"],
  )
  (label,) = processor.post_process_semantic_segmentation(outputs, [(224, width)])
  wrong = (label != 3).any(0).nonzero().flatten().tolist()
  print(f"224 x {width}: windows end at {ends}, not class 3 in the columns {wrong}")
  assert ends[-1] == 674
  assert wrong == ([] if width == 674 else [674])
PYTHON
