"""Results of a study as its files hold them, with numbers that are easy to calculate with."""

import pytest

_GROUPS = ("rare", "rare", "common", "frequent")


@pytest.fixture(name="content")
def make_content():
  """Returns a function that makes the content of a result's JSON from the IoU of four classes."""

  def content(method, seed, iou, seconds=60.0, commit="abc"):
    by_group = {
      "rare": None if None in iou[:2] else sum(iou[:2]) / 2,
      "common": iou[2],
      "frequent": iou[3],
    }
    return {
      "method": method,
      "seed": seed,
      "config": f"configs/shapes_lt.py:method={method}",
      "overrides": {"train.steps": 800},
      "steps": 800,
      "commit": commit,
      "machine": {
        "devices": "1 x cpu",
        "processor": "a processor",
        "cores": 2,
        "jax": "1.0",
        "python": "3.11.0",
      },
      "seconds": seconds,
      "attempts": [],
      "record": {
        "mIoU": None if None in iou else sum(iou) / 4,
        "image_level": by_group,
        "pixel_level": dict(by_group),
        "per_class": [
          {
            "name": name,
            "train_images": 10**c,
            "train_pixel_share": 0.1 * 10**c,
            "image_group": group,
            "pixel_group": group,
            "IoU": value,
          }
          for c, (name, group, value) in enumerate(zip("abcd", _GROUPS, iou, strict=True))
        ],
      },
    }

  return content


@pytest.fixture(name="study")
def make_study(content):
  """Three seeds of the baseline, three of rfs and one of a combination."""
  return {
    "baseline": {
      0: content("baseline", 0, (2.0, 4.0, 40.0, 70.0)),
      1: content("baseline", 1, (4.0, 6.0, 42.0, 72.0)),
      2: content("baseline", 2, (6.0, 8.0, 44.0, 74.0), seconds=180.0),
    },
    "rfs": {
      # Rare: +1, +2, +3; common +3 each; frequent -1, +1, 0.
      0: content("rfs", 0, (3.0, 5.0, 43.0, 69.0)),
      1: content("rfs", 1, (6.0, 8.0, 45.0, 73.0)),
      2: content("rfs", 2, (9.0, 11.0, 47.0, 74.0)),
    },
    "rfs+copy_paste": {1: content("rfs+copy_paste", 1, (5.0, 7.0, 41.0, 72.0), commit="def")},
  }
