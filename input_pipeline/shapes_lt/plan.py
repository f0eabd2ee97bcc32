"""Which image shows which classes: decided up front, so that every frequency is exact."""

import functools

import numpy as np

from input_pipeline.shapes_lt import classes

SEED = 20250
SPLITS = ("train", "val")
MAX_THINGS = 4
MAX_STUFF = 4
# Images are filled evenly up to this much randomness (in classes per image).
THING_SPREAD = 5.0
STUFF_SPREAD = 2.6


def num_images(split: str) -> int:
  """Number of images of a split.

  Raises:
    ValueError: the split does not exist.
  """
  if split not in SPLITS:
    raise ValueError(f"shapes_lt has no split {split!r}; choose one of {', '.join(SPLITS)}")
  return classes.NUM_TRAIN_IMAGES if split == "train" else classes.NUM_VAL_IMAGES


def images_with_class(split: str) -> np.ndarray:
  """Planned number of images that show each class, int64 [C]."""
  count = num_images(split)
  train = np.array([spec.train_images for spec in classes.CLASSES])
  if split == "train":
    return train
  return np.maximum(
    classes.MIN_VAL_IMAGES, np.round(train * count / classes.NUM_TRAIN_IMAGES)
  ).astype(np.int64)


@functools.cache
def image_classes(split: str) -> tuple[tuple[int, ...], ...]:
  """The classes of every image of a split.

  Args:
    split: "train" or "val".

  Returns:
    For each image its class ids, ascending; stuff ids come before thing ids.
  """
  rng = np.random.default_rng([SEED, SPLITS.index(split)])
  wanted = images_with_class(split)
  members: list[list[int]] = [[] for _ in range(num_images(split))]
  first_thing = len(classes.STUFF)
  groups = (
    (range(first_thing), STUFF_SPREAD, MAX_STUFF),
    (range(first_thing, classes.NUM_CLASSES), THING_SPREAD, MAX_THINGS),
  )
  for class_ids, spread, most in groups:
    load = np.zeros(len(members))
    for class_id in class_ids:
      order = np.where(load < most, load, np.inf) + rng.uniform(0, spread, len(members))
      for image in np.argsort(order, kind="stable")[: wanted[class_id]]:
        members[image].append(class_id)
        load[image] += 1
  return tuple(map(tuple, members))
