"""Segmentation scores from a confusion matrix.

A confusion matrix [C, C] counts pixels: row = label, column = prediction; pixels with the ignore
label are in no cell. Matrices of parts of a split add up to that of the split, exactly, in int64
(5,000 images of 2 megapixels exceed int32 and float32); every score divides once, at the end.
"""

import dataclasses

import numpy as np

GROUP_NAMES = ("rare", "common", "frequent")


@dataclasses.dataclass(frozen=True)
class SegmentationScores:
  """Scores of one split, as fractions.

  Attributes:
    iou: [C] float64, tp / (gt + pred - tp); nan for a class with neither labelled nor predicted
      pixels. It is 0 for a class that is predicted but not labelled.
    accuracy: [C] float64, tp / gt; nan for a class without labelled pixels.
    miou: sum of the IoU of the labelled classes / number of labelled or predicted classes.
    fwiou: sum of IoU * (the class's share of the labelled pixels).
    macc: mean accuracy of the labelled classes.
    pacc: share of the labelled pixels whose prediction is right.
    All four are nan where no pixel is labelled.
  """

  iou: np.ndarray
  accuracy: np.ndarray
  miou: float
  fwiou: float
  macc: float
  pacc: float


def confusion_matrix(
  label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
  """Counts label against prediction over the pixels of one image.

  Args:
    label: integers [H, W], classes and ignore_label.
    prediction: integers [H, W], classes.
    num_classes: C.
    ignore_label: label of ignored pixels.

  Returns:
    [C, C] int64, row = label, column = prediction.

  Raises:
    ValueError: the shapes differ, or a value is no class.
  """
  label, prediction = np.asarray(label), np.asarray(prediction)
  if label.shape != prediction.shape:
    raise ValueError(f"label of shape {label.shape}, prediction of shape {prediction.shape}")
  counted = label != ignore_label
  label, prediction = label[counted], prediction[counted]
  for name, values in (("label", label), ("prediction", prediction)):
    if values.size and not (0 <= values.min() and values.max() < num_classes):
      raise ValueError(
        f"{name} holds {values.min()} to {values.max()}, but there are {num_classes} classes"
      )
  cells = label.astype(np.int64) * num_classes + prediction
  counts = np.bincount(cells, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes).astype(np.int64)  # [C, C]


def segmentation_scores(confusion: np.ndarray) -> SegmentationScores:
  """Computes all scores of a confusion matrix.

  Args:
    confusion: integer array [C, C], row = label, column = prediction.

  Returns:
    The scores, as fractions.

  Raises:
    ValueError: the matrix is not square, holds no integers, or a negative count.
  """
  confusion = _checked(confusion)
  if confusion.min() < 0:
    raise ValueError(f"confusion matrix holds the negative count {confusion.min()}: sum in int64")
  true_positives = np.diagonal(confusion)  # [C]
  labelled = confusion.sum(axis=1)  # [C]
  predicted = confusion.sum(axis=0)  # [C]
  iou = _divide(true_positives, labelled + predicted - true_positives)
  accuracy = _divide(true_positives, labelled)
  share = _divide(labelled, labelled.sum())
  present = labelled > 0
  return SegmentationScores(
    iou=iou,
    accuracy=accuracy,
    miou=_mean_iou(iou),
    fwiou=float(np.sum(iou[present] * share[present])) if present.any() else np.nan,
    macc=float(np.mean(accuracy[present])) if present.any() else np.nan,
    pacc=float(_divide(true_positives.sum(), labelled.sum())),
  )


def grouped_miou(iou: np.ndarray, groups: np.ndarray) -> dict[str, float | None]:
  """Computes mIoU inside each group of classes, by the rule for all classes.

  Args:
    iou: [C] as in `SegmentationScores`.
    groups: [C] integers, index into GROUP_NAMES.

  Returns:
    Each group's mIoU as a fraction; None where none of its classes is labelled or predicted.

  Raises:
    ValueError: `groups` does not fit the classes or GROUP_NAMES.
  """
  iou, groups = np.asarray(iou), np.asarray(groups)
  if groups.shape != iou.shape:
    raise ValueError(f"groups of {groups.shape} classes for the IoU of {iou.shape} classes")
  if groups.size and not (0 <= groups.min() and groups.max() < len(GROUP_NAMES)):
    raise ValueError(
      f"groups hold {groups.min()} to {groups.max()}, but there are 0 to {len(GROUP_NAMES) - 1}"
    )
  means = {name: _mean_iou(iou[groups == index]) for index, name in enumerate(GROUP_NAMES)}
  return {name: None if np.isnan(mean) else mean for name, mean in means.items()}


def _checked(confusion: np.ndarray) -> np.ndarray:
  """Returns the matrix as int64."""
  confusion = np.asarray(confusion)
  if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or not confusion.size:
    raise ValueError(f"confusion matrix has shape {confusion.shape}; it must be [C, C]")
  if not np.issubdtype(confusion.dtype, np.integer):
    raise ValueError(f"confusion matrix is {confusion.dtype}; counts are exact only as integers")
  return confusion.astype(np.int64)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Quotient in float64, nan where the denominator is 0."""
  numerator, denominator = np.asarray(numerator), np.asarray(denominator)
  quotient = np.full(numerator.shape, np.nan)
  return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


def _mean_iou(iou: np.ndarray) -> float:
  """Mean over the classes that are labelled or predicted, nan where there are none.

  A class that is predicted but not labelled has no true positives, so its IoU of 0 adds nothing to
  the sum over labelled classes and one to the number of classes, as the definition wants.
  """
  met = iou[~np.isnan(iou)]
  return float(np.mean(met)) if met.size else np.nan
