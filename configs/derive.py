"""Values for the fields that 0 leaves to the data: sizes, number of steps, cadences."""

import math

import ml_collections
from absl import logging

# At this share of the shorter side, crops still differ from draw to draw and hold whole objects.
CROP_SHARE = 0.8
# The coarsest stride that backbones have: no feature map of a crop has a partial cell.
CROP_MULTIPLE = 32
MAX_CROP = 512  # px: the released recipes' crop, and what one accelerator holds at their batch size

# Steps follow from passes over the data, but a few hundred updates are needed to get anywhere from
# random weights, and ADE20K's 160,000 are enough for a data set of its size or more.
PASSES = 60
MIN_STEPS = 600
MAX_STEPS = 160_000

EVALUATIONS = 5  # in a run whose cadence is left open, the last step's among them

# Above this median shorter side (px) training and evaluating at native size is seldom meant.
LARGE_IMAGE = 1024


def finalize(
  config: ml_collections.ConfigDict,
  *,
  num_train_images: int,
  median_height: float,
  median_width: float,
) -> ml_collections.ConfigDict:
  """Replaces each field that is 0 for "from the data" by its value; other fields stay as they are.

  The rule, with `side` = the shorter one of median height and median width:
    data.base_size         side; scale factor 1.0 is then the native size, as is eval.min_size = 0
    data.crop_size         CROP_SHARE * side, as a multiple of CROP_MULTIPLE, at most MAX_CROP
    train.steps            PASSES passes over the images, between MIN_STEPS and MAX_STEPS
    eval.every_steps       EVALUATIONS evaluations, evenly spread
    checkpoint.every_steps as eval.every_steps

  Args:
    config: valid config; not changed.
    num_train_images: number of images in the training split.
    median_height: median height of the training images, px.
    median_width: median width of the training images, px.

  Returns:
    A new, locked config without open fields.

  Raises:
    ValueError: the training split is empty.
  """
  if num_train_images < 1:
    raise ValueError(
      f"config.data.name={config.data.name!r} has {num_train_images} training images; it needs one"
    )
  result = ml_collections.ConfigDict(config.to_dict())
  side = min(median_height, median_width)
  derived = {}

  def fill(field: str, value: int) -> None:
    group, name = field.split(".")
    if result[group][name] == 0:
      result[group][name] = value
      derived[field] = value

  fill("data.base_size", max(CROP_MULTIPLE, round(side)))
  fill("data.crop_size", _crop_size(side))
  fill("train.steps", _steps(num_train_images, result.batch_size))
  fill("eval.every_steps", math.ceil(result.train.steps / EVALUATIONS))
  fill("checkpoint.every_steps", result.eval.every_steps)
  if derived:
    logging.info(
      "From %d training images of %g x %g px (median height x width): %s",
      num_train_images,
      median_height,
      median_width,
      ", ".join(f"{field}={value}" for field, value in derived.items()),
    )
  if "data.base_size" in derived and side > LARGE_IMAGE:
    logging.warning(
      "The images' median shorter side is %g px, and they are used at this size. Where classes can"
      " be told apart at less, --config.data.base_size=512 --config.eval.min_size=512 is faster.",
      side,
    )
  return result.lock()


def _crop_size(side: float) -> int:
  cells = max(1, round(CROP_SHARE * side / CROP_MULTIPLE))
  return min(MAX_CROP, cells * CROP_MULTIPLE)


def _steps(num_train_images: int, batch_size: int) -> int:
  return min(MAX_STEPS, max(MIN_STEPS, math.ceil(PASSES * num_train_images / batch_size)))
