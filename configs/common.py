"""Every field once, with its default and its unit, and the variants that all config files share.

The defaults are the DeepLabV3+ recipe that the public release of "Frequency-based Matcher for
Long-tailed Semantic Segmentation" (IEEE TMM 2024) uses for all of its data sets: SGD with momentum
0.9, learning rate 0.01 falling to 0 with (1 - step / steps)^0.9, weight decay 1e-4, batch 16, crops
of 512 x 512, no warm-up, no clipping. A config file overwrites only what differs for its data set.
"""

from collections.abc import Callable, Mapping

import ml_collections

from configs import validation
from configs.derive import finalize
from configs.validation import validate

__all__ = ["VARIANTS", "apply_variants", "finalize", "get_config", "parse_variants", "validate"]


def get_config() -> ml_collections.ConfigDict:
  """Returns a new config with every field at its default; the config file sets `data.name`."""
  return ml_collections.ConfigDict(
    {
      "seed": 0,  # of initialisation, image order, augmentation and dropout
      "batch_size": 16,  # images a step, over all devices and processes
      "data": _data(),
      "model": _model(),
      "loss": {
        # Share of the global batch's pixels, those of largest loss, whose mean is the loss.
        "hard_pixel_fraction": 0.2,
      },
      "optimizer": _optimizer(),
      "train": {
        "steps": 0,  # optimizer updates; 0: from the number of training images
        "grad_accumulation": 1,  # slices a batch is run in, one after another, to save memory
        "log_every_steps": 100,  # updates between two progress lines
      },
      "eval": {
        "every_steps": 10_000,  # updates between two evaluations; 0: from train.steps
        "min_size": 512,  # px, shorter side of a test image; 0: native size
        "max_size": 2048,  # px, limit on the longer side of a test image
        "batch_size": 8,  # images of equal shape evaluated together, over all devices and processes
        "step": 0,  # of the checkpoint that --mode=evaluate scores; 0: the latest, -1: best by mIoU
      },
      "checkpoint": {
        "every_steps": 5_000,  # updates between two checkpoints; 0: as often as evaluations
        "keep": 3,  # last checkpoints kept, beside the best by mIoU
      },
    }
  )


def _data() -> dict:
  """Fields of the data set and of its augmentation."""
  return {
    "name": "",  # data set, one of validation.CHOICES["data.name"]
    "dir": "data",  # where prepared data sets lie (a local path or gs://)
    "root": "",  # folder only: the directory with images/, annotations/ and classes.txt
    "ignore_label": 255,  # folder only: label value of pixels that count for nothing
    "crop_size": 512,  # px, side of a training crop; 0: from the images' median size
    "base_size": 512,  # px, shorter side at scale factor 1.0; 0: the images' median one
    "min_factor": 0.5,  # smallest scale factor, of base_size
    "max_factor": 2.0,  # largest scale factor, of base_size
    "max_size": 2048,  # px, limit on the longer side after scaling
    "color_jitter": True,  # brightness, contrast, saturation and hue as in SSD
    "flip": True,  # mirror half of the images, with left and right classes swapped
    "num_workers": 8,  # processes that read and augment, in each host process; 0: threads instead
    "prefetch": 4,  # batches made ready ahead of the step
  }


def _model() -> dict:
  """Fields of the network."""
  return {
    "name": "deeplabv3plus",
    "backbone": "resnet50",
    "dtype": "float32",  # of the computation; parameters, statistics and loss stay in float32
    "aspp_channels": 256,
    "aspp_dilations": (6, 12, 18),  # cells of the stride-16 map
    "aspp_dropout": 0.1,  # probability that a channel value is dropped in training
    "low_level_channels": 48,  # that the stride-4 features are projected to
    "decoder_channels": 256,
    # "global": average over the whole map, any input size. "window": as the release, over windows
    # of crop_size / 16 cells, which is another function for inputs larger than the crop.
    "image_pooling": "global",
  }


def _optimizer() -> dict:
  """Fields of the optimizer and its schedule."""
  return {
    "name": "sgd",
    "learning_rate": 0.01,  # that the schedule starts from
    "momentum": 0.9,  # sgd only
    "b1": 0.9,  # adamw only: decay of the mean of the gradients
    "b2": 0.999,  # adamw only: decay of the mean of their squares
    "weight_decay": 1e-4,  # 0 on normalisation layers
    "backbone_multiplier": 1.0,  # learning rate of the backbone, relative
    "clip_norm": 0.0,  # largest norm of the gradient of the whole model; 0: not clipped
    "poly_power": 0.9,  # of the schedule learning_rate * (1 - step / steps)^poly_power
    "warmup_steps": 0,  # updates over which the rate rises linearly to the schedule's
  }


def _deeplabv3plus(config: ml_collections.ConfigDict) -> None:
  config.model.name = "deeplabv3plus"


def _resnet50(config: ml_collections.ConfigDict) -> None:
  config.model.backbone = "resnet50"


def _resnet101(config: ml_collections.ConfigDict) -> None:
  config.model.backbone = "resnet101"


def _resnet_small(config: ml_collections.ConfigDict) -> None:
  """A network for a CPU and for crops of 128 to 256 px, trained from random weights."""
  config.model.backbone = "resnet_small"
  # With a small backbone nearly all of the time would go into the head's 3x3 convolutions.
  config.model.aspp_channels = 64
  config.model.low_level_channels = 32
  config.model.decoder_channels = 64
  # A crop of 128 to 256 px is 8 to 16 cells wide: dilations of 12 and 18 would see only padding.
  config.model.aspp_dilations = (2, 4, 6)


# Variant key -> value -> what it overwrites, applied in this order.
VARIANTS: Mapping[str, Mapping[str, Callable[[ml_collections.ConfigDict], None]]] = {
  "model": {"deeplabv3plus": _deeplabv3plus},
  "backbone": {"resnet50": _resnet50, "resnet101": _resnet101, "resnet_small": _resnet_small},
}


def parse_variants(variants: str) -> dict[str, str]:
  """Splits the text behind the colon of `--config=FILE:model=deeplabv3plus,backbone=resnet101`.

  Args:
    variants: comma-separated `key=value` pairs in any order; "" is none.

  Returns:
    The chosen value of each given key.

  Raises:
    ValueError: unknown or repeated key, unknown value, or a part that is no pair.
  """
  chosen: dict[str, str] = {}
  for part in filter(None, (part.strip() for part in variants.split(","))):
    key, equals, value = (text.strip() for text in part.partition("="))
    if not equals:
      raise ValueError(f"variant {part!r} is not of the form key=value; {_key_hint(part)}")
    if key not in VARIANTS:
      raise ValueError(f"unknown variant key {key!r} in {part!r}; {_key_hint(key)}")
    if value not in VARIANTS[key]:
      raise ValueError(
        f"unknown value {value!r} of variant {key!r}; {validation.hint(value, VARIANTS[key])}"
      )
    if key in chosen:
      raise ValueError(
        f"variant {key!r} is given twice: {chosen[key]!r} and {value!r}; give it once"
      )
    chosen[key] = value
  return chosen


def _key_hint(text: str) -> str:
  """Names `key=value` where the text is a value without its key, otherwise the nearest key."""
  for key, values in VARIANTS.items():
    if text in values:
      return f"nearest valid: '{key}={text}'"
  return validation.hint(text, VARIANTS)


def apply_variants(
  config: ml_collections.ConfigDict, variants: str, defaults: Mapping[str, str] | None = None
) -> ml_collections.ConfigDict:
  """Overwrites what the chosen variants change.

  Args:
    config: the data set's config; changed in place.
    variants: as in `parse_variants`.
    defaults: the file's own choices for keys that are not given.

  Returns:
    The same config.

  Raises:
    ValueError: as in `parse_variants`.
  """
  chosen = {**(defaults or {}), **parse_variants(variants)}
  for key, values in VARIANTS.items():
    if key in chosen:
      values[chosen[key]](config)
  return config
