"""Prints what the evaluation's own work costs on one core, against OpenCV and NumPy.

The work: 171 score maps of one image to 640 x 480 (bilinear), argmax, confusion counts. OpenCV has
at most 128 channels, so that the other candidates resize in parts, in either memory layout.
"""

import os
import statistics
import time
from collections.abc import Callable

# Before XLA makes its thread pool, which has a thread for each core it may use.
if hasattr(os, "sched_setaffinity"):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import cv2
import jax
import numpy as np

from ltss_jax.inference import score_maps
from ltss_jax.results import metrics

_NUM_CLASSES, _SIZE, _IGNORE_LABEL = 171, (480, 640), 255
_CHANNELS = 57  # a third of the classes
_REPETITIONS = 5
_INPUTS = ((128, 171), (512, 683))


def _ours(scores: np.ndarray, label: np.ndarray) -> Callable[[], np.ndarray]:
  """Scores [h, w, C] are on the device, as a network leaves them."""
  interpolation = [
    score_maps.interpolation_weights(own, out, out)
    for own, out in zip(scores.shape[:2], _SIZE, strict=True)
  ]

  @jax.jit
  def labels(scores, interpolation):
    def block(start, count):
      return jax.lax.dynamic_slice_in_dim(scores, start, count, axis=-1)

    return score_maps.argmax(block, _NUM_CLASSES, _SIZE[0] * _SIZE[1], tuple(interpolation))

  scores = jax.device_put(scores)

  def run():
    prediction = np.asarray(labels(scores, interpolation))
    return metrics.confusion_matrix(label, prediction, _NUM_CLASSES, _IGNORE_LABEL)

  return run


def _counts(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
  keep = label != _IGNORE_LABEL
  cells = label[keep].astype(np.int64) * _NUM_CLASSES + prediction[keep]
  return np.bincount(cells, minlength=_NUM_CLASSES**2).reshape(_NUM_CLASSES, _NUM_CLASSES)


def _resized(image: np.ndarray) -> np.ndarray:
  return cv2.resize(image, _SIZE[::-1], interpolation=cv2.INTER_LINEAR)


def _channels_last(scores: np.ndarray, label: np.ndarray) -> Callable[[], np.ndarray]:
  starts = range(0, _NUM_CLASSES, _CHANNELS)

  def run():
    parts = [np.ascontiguousarray(scores[..., i : i + _CHANNELS]) for i in starts]
    return _counts(label, np.concatenate([_resized(part) for part in parts], -1).argmax(-1))

  return run


def _channels_first(scores: np.ndarray, label: np.ndarray) -> Callable[[], np.ndarray]:
  maps = np.ascontiguousarray(scores.transpose(2, 0, 1))  # [C, h, w]
  return lambda: _counts(label, np.stack([_resized(one) for one in maps]).argmax(0))


def main() -> None:
  """Times the candidates in turn and prints medians."""
  cv2.setNumThreads(1)
  rng = np.random.default_rng(0)
  label = rng.integers(0, _NUM_CLASSES, _SIZE, dtype=np.uint8)
  for size in _INPUTS:
    scores = rng.normal(size=(*size, _NUM_CLASSES)).astype(np.float32)
    candidates = [make(scores, label) for make in (_ours, _channels_last, _channels_first)]
    results = [run() for run in candidates]
    for result in results[1:]:  # OpenCV rounds otherwise: a few near-ties differ
      assert np.abs(result - results[0]).sum() <= 1e-3 * label.size, "candidates disagree"
    times = []
    for _ in range(_REPETITIONS):
      for run in candidates:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    ours, last, first = (statistics.median(times[i::3]) for i in range(3))
    print(
      f"{_NUM_CLASSES} classes from {size[1]} x {size[0]} to {_SIZE[1]} x {_SIZE[0]}, argmax and "
      f"counts, one core: {ours:.0f} ms, cv2 + numpy: {last:.0f} ms (channels last, ratio "
      f"{last / ours:.1f}), {first:.0f} ms (channels first, ratio {first / ours:.1f})"
    )


if __name__ == "__main__":
  main()
