"""Run-length JSON, read back by pycocotools."""

import json

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as st_numpy
from pycocotools import mask as coco_mask

from input_pipeline import prediction_files
from ltss_jax.inference import coco_rle

IDS = (7, 300, 12)


@given(st_numpy.arrays(bool, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_mask_comes_back(mask):
  encoded = json.loads(json.dumps(coco_rle.encode(mask)))
  assert encoded["size"] == list(mask.shape)
  np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
  assert coco_mask.area(encoded) == mask.sum()


def test_runs_by_hand():
  mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
  # Columns top to bottom: 2 zeros, 3 ones, 1 zero; small counts are characters from "0" on.
  assert coco_rle.encode(mask) == {"size": [2, 3], "counts": "231"}


@given(st.sampled_from([np.uint8, np.uint16, np.int64]), st.integers(0, 99))
def test_entries_make_the_label_again(dtype, seed):
  label = np.random.default_rng(seed).choice([0, 2, 255], (5, 9)).astype(dtype)
  entries = coco_rle.label_entries(label, IDS, "a/b.jpg")
  assert [entry["category_id"] for entry in entries] == [
    IDS[train_id] for train_id in (0, 2) if (label == train_id).any()
  ]
  again = np.full(label.shape, 255, dtype)
  for entry in entries:
    assert entry["file_name"] == "a/b.jpg"
    mask = coco_mask.decode(entry["segmentation"]).astype(bool)
    again[mask] = IDS.index(entry["category_id"])
  np.testing.assert_array_equal(again, label)


def test_a_label_without_classes_has_no_entries():
  assert coco_rle.label_entries(np.full((3, 4), 255, np.uint8), IDS, "a.png") == []


def test_the_file_is_a_list_of_entries(tmp_path):
  label = np.arange(12, dtype=np.uint16).reshape(3, 4) % 3
  entries = coco_rle.label_entries(label, IDS, "é.png")
  for wanted in (entries, []):
    writer = prediction_files.JsonListWriter(tmp_path / "x.json")
    for entry in wanted:
      writer.write(entry)
    writer.close()
    assert json.loads((tmp_path / "x.json").read_text()) == wanted
