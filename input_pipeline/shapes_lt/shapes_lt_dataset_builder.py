"""tfds builder of shapes_lt: draws the scenes and writes them as ArrayRecord."""

from collections.abc import Iterator
from typing import Any

import cv2
import tensorflow_datasets as tfds

from input_pipeline import class_stats, prepared
from input_pipeline.raw import info, record
from input_pipeline.shapes_lt import classes, plan, scenes

JPEG_QUALITY = 95

_DESCRIPTION = f"""
Drawn scenes for long-tailed semantic segmentation: textured backgrounds (stuff) with shaded, partly
occluded objects (things) upon them. {classes.NUM_CLASSES} classes, the rarest in
{min(spec.train_images for spec in classes.CLASSES)} of the {classes.NUM_TRAIN_IMAGES} training
images, each in at least {classes.MIN_VAL_IMAGES} of the {classes.NUM_VAL_IMAGES} validation images.
Some pixels are ignored. arrow_left and arrow_right are mirror images of each other. Every run draws
the same scenes.
"""


def encode_scene(scene: scenes.Scene) -> tuple[bytes, bytes]:
  """Encodes a scene as (JPEG bytes of the image, PNG bytes of the label)."""
  bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
  _, image = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
  return image.tobytes(), record.encode_label(scene.label)


class ShapesLt(tfds.core.GeneratorBasedBuilder):
  """Draws the splits `train` and `val` of shapes_lt, with the class metadata beside them."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def __init__(self, *, file_format: str = "array_record", **kwargs: Any):
    super().__init__(file_format=file_format, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return info.Info(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
          "file_name": tfds.features.Text(),
        }
      ),
      # Records keep the order of drawing, which is the order of the rows of pixel counts.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    del dl_manager  # Nothing to download.
    prepared.write_metadata(self.data_path, classes.METADATA)
    return {split: self._generate_examples(split) for split in plan.SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    sizes, rows = [], []
    for index in range(plan.num_images(split)):
      scene = scenes.draw_scene(split, index)
      sizes.append(scene.label.shape)
      rows.append(class_stats.count_pixels(scene.label, classes.NUM_CLASSES, classes.IGNORE_LABEL))
      image, label = encode_scene(scene)
      yield index, {"image": image, "label": label, "file_name": f"{split}_{index:05d}.jpg"}
    counts = class_stats.PixelCounts.from_rows(sizes, rows)
    prepared.write_pixel_counts(self.data_path, split, counts)
