import cv2
import numpy as np

from ltss_jax.study import method_figures


def test_every_plot_is_written(study, tmp_path):
  paths = method_figures.save(study, tmp_path, "baseline")
  assert [path.name for path in paths] == [
    "iou_by_frequency.png",
    "groups.png",
    "gain_by_frequency.png",
  ]
  for path in paths:
    assert cv2.imread(str(path)).std() > 10


def test_without_a_baseline_there_are_no_gains(study, tmp_path):
  del study["baseline"]
  assert [path.stem for path in method_figures.save(study, tmp_path, "baseline")] == [
    "iou_by_frequency",
    "groups",
  ]


def test_classes_without_images_or_values_are_drawn_or_left_out(content, tmp_path):
  one = content("baseline", 0, (None, 2.0, None, 4.0))
  other = content("rfs", 0, (None, 3.0, 1.0, 4.0))
  for entry in (one, other):
    entry["record"]["per_class"][1]["train_images"] = 0
    entry["record"]["per_class"][1]["train_pixel_share"] = 0.0
  study = {"baseline": {0: one}, "rfs": {0: other}}
  assert len(method_figures.save(study, tmp_path, "baseline")) == 3
  (panel,) = method_figures.gain_by_frequency(study, "baseline").axes
  points = {tuple(xy) for line in panel.lines for xy in line.get_xydata()}
  assert {(0.5, 1.0), (1000.0, 0.0)} <= points  # 0 images stand at half of the smallest other


def test_points_and_curves_are_the_means_over_the_seeds(study):
  panel = method_figures.iou_by_frequency(study).axes[0]
  points, curve = panel.lines[:2]
  np.testing.assert_allclose(points.get_xdata(), [1, 10, 100, 1000])
  np.testing.assert_allclose(points.get_ydata(), [4.0, 6.0, 42.0, 72.0])
  # A fifth of four classes is one class a window.
  np.testing.assert_allclose(curve.get_ydata(), [4.0, 6.0, 42.0, 72.0])
  assert panel.get_xscale() == "log"


def test_smoothing_by_hand():
  frequency = np.array([100.0, 1.0, 10.0, 1000.0, 5.0, 1e4, 1e5, 1e6, 1e7, 1e8])
  iou = np.array([6.0, 2.0, 4.0, np.nan, np.nan, 8.0, *[np.nan] * 4])
  x, y = method_figures.smoothed(frequency, iou)  # two classes a window
  np.testing.assert_allclose(x, [10**0.5, 10**1.5, 10**3])
  np.testing.assert_allclose(y, [3.0, 5.0, 7.0])
  assert all(part.size == 0 for part in method_figures.smoothed(frequency, np.full(10, np.nan)))
