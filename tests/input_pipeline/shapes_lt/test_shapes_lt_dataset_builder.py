"""The tfds builder writes what was drawn, in order, all at once."""

import cv2
import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.shapes_lt import classes, plan, scenes, shapes_lt_dataset_builder


class InterruptedShapes(shapes_lt_dataset_builder.ShapesLt, skip_registration=True):
  """Stops while the second split is being drawn."""

  name = "interrupted_shapes"

  def _generate_examples(self, split):
    examples = super()._generate_examples(split)
    for _ in range(2):
      yield next(examples)
    if split == "val":
      raise OSError("No space left on device")


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("train", 1199), ("val", 17)])
def test_records_decode_to_the_drawn_scene(prepared_directory, split, index):
  record = prepared.open_source(prepared_directory, split)[index]
  scene = scenes.draw_scene(split, index)
  assert record["file_name"] == f"{split}_{index:05d}.jpg"
  assert record["image"].startswith(b"\xff\xd8")
  label = cv2.imdecode(np.frombuffer(record["label"], np.uint8), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(label, scene.label)
  image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
  difference = np.abs(image.astype(int) - scene.image)
  # JPEG keeps colour at half resolution, which smooths the drawn sensor noise of up to 9 levels.
  assert difference.mean() < 6


def test_same_bytes_on_every_run(prepared_directory):
  source = prepared.open_source(prepared_directory, "val")
  for index in (0, 100, 239):
    image, label = shapes_lt_dataset_builder.encode_scene(scenes.draw_scene("val", index))
    assert (source[index]["image"], source[index]["label"]) == (image, label)


def test_pixel_counts_are_in_record_order(prepared_directory):
  for split in plan.SPLITS:
    source = prepared.open_source(prepared_directory, split)
    counts = prepared.read_pixel_counts(prepared_directory, split)
    assert len(source) == len(counts) == plan.num_images(split)
    for index in (0, 1, len(source) - 1):
      label = cv2.imdecode(np.frombuffer(source[index]["label"], np.uint8), cv2.IMREAD_UNCHANGED)
      class_ids, pixels = np.unique(label[label != classes.IGNORE_LABEL], return_counts=True)
      np.testing.assert_array_equal(counts.row(index)[0], class_ids)
      np.testing.assert_array_equal(counts.row(index)[1], pixels)


def test_metadata_stands_beside_the_records(prepared_directory):
  assert not prepared.missing_files(prepared_directory)
  metadata = prepared.read_metadata(prepared_directory)
  assert metadata == classes.METADATA
  names = [metadata.class_names[c] for c in metadata.flip_pairs[0]]
  assert names == ["arrow_right", "arrow_left"]


def test_preparation_takes_less_than_a_minute(built):
  assert built[1] < 60


def test_interrupted_preparation_leaves_no_data_set(tmp_path):
  builder = InterruptedShapes(data_dir=tmp_path)
  with pytest.raises(OSError, match="No space left"):
    builder.download_and_prepare()
  assert not builder.data_path.exists()
  assert not list(tmp_path.rglob("classes.json"))
