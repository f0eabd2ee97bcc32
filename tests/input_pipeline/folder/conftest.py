import numpy as np
import pytest
from PIL import Image

CLASS_NAMES = ("sky", "left arm", "right arm", "road")


def _smooth_image(rng, height, width):
  coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), np.uint8))
  return coarse.resize((width, height), Image.Resampling.BICUBIC)


def write_jpeg(path, height=24, width=32, seed=0, **save_options):
  """Writes a smooth random JPEG."""
  image = _smooth_image(np.random.default_rng(seed), height, width)
  image.save(path, "JPEG", **save_options)


def write_label(path, label):
  """Writes a label map uint8 or uint16 [H, W] as a greyscale PNG."""
  Image.fromarray(label).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
  """A small valid folder data set: 5 training and 3 validation images of 24 x 32 px, 4 classes."""
  root = tmp_path / "My photos"
  rng = np.random.default_rng(0)
  for split, num_images in (("train", 5), ("val", 3)):
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations" / split).mkdir(parents=True)
    for index in range(num_images):
      write_jpeg(root / "images" / split / f"{index}.jpg", seed=index)
      label = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (24, 32))
      write_label(root / "annotations" / split / f"{index}.png", label)
  (root / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
  return root
