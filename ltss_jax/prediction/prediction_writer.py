"""What a prediction writes for every image, and about all of them."""

import numpy as np
from etils import epath

from input_pipeline import prediction_files
from input_pipeline.prediction_files import ImageError
from input_pipeline.prepared import ClassMetadata
from ltss_jax.inference import coco_rle
from ltss_jax.visualization import palette, region_names


class PredictionWriter:
  """Writes label maps, overlays, scores, the summary and the run-length masks.

  Args:
    output: folder of the results; it is made where it is missing.
    metadata: class names and ids.
    save_summary: whether to write summary.json.
    save_json: whether to write predictions.json.
    part: (i, P): this is process i of P, each of which writes JSON files of its own.

  Raises:
    OSError: the folder cannot be made or written.
  """

  def __init__(
    self,
    output: epath.Path,
    metadata: ClassMetadata,
    *,
    save_summary: bool,
    save_json: bool,
    part: tuple[int, int] = (0, 1),
  ):
    self._output, self._metadata = output, metadata
    self._dtype = prediction_files.label_dtype(metadata.num_classes)
    self._colors = palette.class_colors(metadata.num_classes)
    output.mkdir(parents=True, exist_ok=True)

    def json_list(wanted: bool, name: str) -> prediction_files.JsonListWriter | None:
      path = output / prediction_files.part_name(name, *part)
      return prediction_files.JsonListWriter(path) if wanted else None

    self._summary = json_list(save_summary, prediction_files.SUMMARY_FILE)
    self._masks = json_list(save_json, prediction_files.RUN_LENGTH_FILE)

  def write(
    self, path: epath.Path, image: np.ndarray, label: np.ndarray, scores: np.ndarray | None
  ) -> None:
    """Writes the results of one image.

    Args:
      path: path of the image.
      image: uint8 [H, W, 3], upright.
      label: integers [H, W].
      scores: float32 [C, H, W]; None leaves them out.
    """
    metadata, names = self._metadata, prediction_files.output_names(path)
    label_path, overlay_path, scores_path = (self._output / name for name in names)
    prediction_files.write_png(label_path, label.astype(self._dtype))
    picture = palette.overlay(image, label, self._colors)
    picture = region_names.draw_names(picture, label, metadata.class_names)
    prediction_files.write_png(overlay_path, picture)
    if scores is not None:
      prediction_files.write_scores(scores_path, scores)
    if self._summary is not None:
      self._summary.write(image_summary(path.name, label, metadata.class_names))
    if self._masks is not None:
      for entry in coco_rle.label_entries(label, metadata.dataset_ids, path.name):
        self._masks.write(entry)

  def write_failure(self, path: epath.Path, error: ImageError) -> None:
    """Notes in the summary that an image has no results."""
    if self._summary is not None:
      self._summary.write({"file_name": path.name, "error": str(error)})

  def close(self) -> None:
    """Completes the JSON files."""
    for file in (self._summary, self._masks):
      if file is not None:
        file.close()


def image_summary(file_name: str, label: np.ndarray, class_names: tuple[str, ...]) -> dict:
  """What is in an image.

  Args:
    file_name: name of the image.
    label: integers [H, W] below C.
    class_names: names of the C classes.

  Returns:
    {"file_name", "height", "width", "classes"}; of each class that occurs, the most frequent first,
    {"name", "label", "pixels", "share"}: share of the image's pixels, 0 to 1.
  """
  counts = np.bincount(label.ravel(), minlength=len(class_names))
  return {
    "file_name": file_name,
    "height": label.shape[0],
    "width": label.shape[1],
    "classes": [
      {
        "name": class_names[train_id],
        "label": int(train_id),
        "pixels": int(counts[train_id]),
        "share": round(counts[train_id] / label.size, 6),
      }
      for train_id in np.argsort(-counts, kind="stable")
      if counts[train_id]
    ],
  }
