"""The files of a prediction about one image and about all."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image
from pycocotools import mask as coco_mask

from input_pipeline.prediction_files import ImageError
from input_pipeline.prepared import ClassMetadata
from ltss_jax.prediction import prediction_writer

CLASSES = ClassMetadata("street", ("road", "car", "sky"), (7, 26, 23), 255)


@pytest.fixture(name="label")
def _label():
  label = np.zeros((4, 5), np.uint16)
  label[1, :3] = 2
  return label


def write(output, label, **options):
  options = {"save_summary": True, "save_json": True} | options
  writer = prediction_writer.PredictionWriter(epath.Path(output), CLASSES, **options)
  image = np.full((*label.shape, 3), 50, np.uint8)
  writer.write(epath.Path("in/a.jpg"), image, label, None)
  writer.write_failure(epath.Path("in/b.jpg"), ImageError("in/b.jpg: broken"))
  writer.close()


def test_the_summary_counts_classes_and_names_failures(label, tmp_path):
  write(tmp_path / "new" / "out", label)
  first, second = json.loads((tmp_path / "new" / "out" / "summary.json").read_text())
  assert first == {
    "file_name": "a.jpg",
    "height": 4,
    "width": 5,
    "classes": [
      {"name": "road", "label": 0, "pixels": 17, "share": 0.85},
      {"name": "sky", "label": 2, "pixels": 3, "share": 0.15},
    ],
  }
  assert second == {"file_name": "b.jpg", "error": "in/b.jpg: broken"}


# pycocotools asks numpy 2 for arrays as numpy 1 gave them.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_length_masks_decode_to_the_label_map(label, tmp_path):
  write(tmp_path, label)
  entries = json.loads((tmp_path / "predictions.json").read_text())
  assert [(entry["file_name"], entry["category_id"]) for entry in entries] == [
    ("a.jpg", 7),
    ("a.jpg", 23),
  ]
  for entry, train_id in zip(entries, (0, 2), strict=True):
    np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), label == train_id)


def test_json_files_are_written_on_request_and_one_a_process(label, tmp_path):
  write(tmp_path / "none", label, save_summary=False, save_json=False)
  assert sorted(p.name for p in (tmp_path / "none").iterdir()) == ["a.png", "a_overlay.png"]
  write(tmp_path / "part", label, save_json=False, part=(1, 4))
  names = {path.name for path in (tmp_path / "part").iterdir()}
  assert names == {"a.png", "a_overlay.png", "summary-1-of-4.json"}
  np.testing.assert_array_equal(np.array(Image.open(tmp_path / "part" / "a.png")), label)
