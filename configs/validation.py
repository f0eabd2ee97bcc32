"""Checks of a config's values; every error names the field, its value and the nearest valid one."""

import dataclasses
import difflib
import math
from collections.abc import Iterable

import ml_collections

CHOICES = {
  "data.name": (
    "shapes_lt",
    "folder",
    "coco_stuff_lt",
    "ade20k_full",
    "mhp_v2_lt",
    "coco_stuff",
    "ade20k",
    "mhp_v2",
  ),
  "data.sampler": ("uniform", "repeat_factor"),
  "data.repeat_level": ("image", "pixel"),
  "data.repeat_reduce": ("max", "mean", "sum"),
  "data.copy_paste": ("none", "random", "rare"),
  "model.name": ("mask2former", "deeplabv3plus"),
  "model.backbone": (
    "resnet50",
    "resnet101",
    "swin_t",
    "swin_s",
    "swin_b",
    "swin_l",
    "vit_b",
    "resnet_small",
    "swin_mini",  # this and the next are for tests
    "vit_mini",
  ),
  "model.backbone_norm": ("frozen_batch_norm", "batch_norm"),
  "model.class_head": ("softmax", "seesaw"),
  "model.dtype": ("float32", "bfloat16"),
  "eval.dtype": ("float32", "bfloat16"),
  "model.image_pooling": ("global", "window"),
  "model.deformable_attention": ("auto", "pallas_tpu", "pallas_gpu", "xla", "reference"),
  "loss.matcher": ("scipy", "optax"),
  "loss.class_loss": (
    "cross_entropy",
    "seesaw",
    "class_balanced",
    "balanced_softmax",
    "logit_adjustment",
    "focal",
  ),
  "loss.ignored_pixels": ("background", "left_out"),
  "optimizer.name": ("sgd", "adamw"),
}

_RESNETS = ("resnet50", "resnet101", "resnet_small")
# Methods that only masks of queries can have -> off.
_MASK2FORMER_METHODS = {
  "loss.frequency_matcher": False,
  "loss.ignored_pixels": "background",
  "model.pixel_head": False,
  "model.class_head": "softmax",
}
# The decoders' group norms have 32 groups.
_CHANNEL_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Range:
  """An interval of valid values; an open end is no valid value itself."""

  low: float
  high: float = math.inf
  low_open: bool = False
  high_open: bool = False
  special: float | None = None  # valid too, with a meaning of its own

  def __contains__(self, value: float) -> bool:
    if value == self.special:
      return True
    above = value > self.low if self.low_open else value >= self.low
    below = value < self.high if self.high_open else value <= self.high
    return above and below and math.isfinite(value)

  def __str__(self) -> str:
    low = f"greater than {self.low}" if self.low_open else f"at least {self.low}"
    if self.special is not None:
      low = f"{self.special} or {low}"
    if self.high == math.inf:
      return low
    return f"{low} and {'less than' if self.high_open else 'at most'} {self.high}"

  def nearest(self, value: float) -> float | None:
    """The nearest valid value, None where there is none (an open end, or not a number)."""
    if math.isnan(value):
      return None
    if value >= self.high:
      return None if self.high_open or self.high == math.inf else self.high
    if self.special is not None and value - self.special < self.low - value:
      return self.special
    return None if self.low_open else self.low


_POSITIVE = Range(0, low_open=True)
_COUNT = Range(1)
_COUNT_OR_0 = Range(0)
_PROBABILITY = Range(0, 1, high_open=True)
_WEIGHT = Range(0)

# The smallest crop has one cell at the backbone's stride of 16 to spare on each axis.
_SMALLEST_CROP = 32

RANGES = {
  "seed": Range(0, 2**32 - 1),
  "batch_size": _COUNT,
  "data.ignore_label": Range(0, 2**16 - 1, special=-1),
  "data.crop_size": Range(_SMALLEST_CROP, special=0),
  "data.base_size": Range(_SMALLEST_CROP, special=0),
  "data.min_factor": _POSITIVE,
  "data.max_factor": _POSITIVE,
  "data.max_size": Range(_SMALLEST_CROP),
  "data.max_category_share": Range(0, 1, low_open=True),
  "data.repeat_threshold": Range(0, 1),
  "data.copy_paste_min_scale": _POSITIVE,
  "data.copy_paste_max_scale": _POSITIVE,
  "data.num_workers": _COUNT_OR_0,
  "data.prefetch": _COUNT,
  "model.drop_path": Range(0, 1, high_open=True, special=-1),
  "model.channels": _COUNT,
  "model.num_queries": _COUNT,
  "model.encoder_layers": _COUNT,
  "model.decoder_layers": _COUNT,
  "model.num_heads": _COUNT,
  "model.encoder_width": _COUNT,
  "model.decoder_width": _COUNT,
  "model.max_targets": _COUNT,
  "model.aspp_channels": _COUNT,
  "model.aspp_dropout": _PROBABILITY,
  "model.low_level_channels": _COUNT,
  "model.decoder_channels": _COUNT,
  "loss.hard_pixel_fraction": Range(0, 1, low_open=True),
  "loss.num_points": _COUNT,
  "loss.oversample_ratio": Range(1),
  "loss.importance_sample_ratio": Range(0, 1),
  "loss.class_weight": _WEIGHT,
  "loss.mask_weight": _WEIGHT,
  "loss.dice_weight": _WEIGHT,
  "loss.no_object_weight": _WEIGHT,
  "loss.seesaw_p": _WEIGHT,
  "loss.seesaw_q": _WEIGHT,
  "loss.class_balanced_beta": _PROBABILITY,
  "loss.logit_adjustment_tau": _WEIGHT,
  "loss.focal_gamma": _WEIGHT,
  "loss.query_scale": _POSITIVE,
  "loss.query_threshold": Range(0, 1),
  "loss.pixel_head_weight": _WEIGHT,
  "init.step": Range(-1),
  "optimizer.learning_rate": _POSITIVE,
  "optimizer.momentum": _PROBABILITY,
  "optimizer.b1": _PROBABILITY,
  "optimizer.b2": _PROBABILITY,
  "optimizer.weight_decay": Range(0),
  "optimizer.backbone_multiplier": Range(0),
  "optimizer.clip_norm": Range(0),
  "optimizer.poly_power": _WEIGHT,
  "optimizer.warmup_steps": _COUNT_OR_0,
  "train.steps": _COUNT_OR_0,
  "train.grad_accumulation": _COUNT,
  "train.log_every_steps": _COUNT,
  "train.max_nonfinite_steps": _COUNT_OR_0,
  "train.log_images_every_steps": _COUNT_OR_0,
  "train.log_images": _COUNT,
  "eval.every_steps": _COUNT_OR_0,
  "eval.min_size": _COUNT_OR_0,
  "eval.max_size": _COUNT,
  "eval.batch_size": _COUNT,
  "eval.logit_adjustment": Range(0),
  "eval.scales_max_size": _COUNT,
  "eval.window": Range(_SMALLEST_CROP, special=0),
  "eval.window_stride": _COUNT_OR_0,
  "eval.shape_multiple": _COUNT,
  "eval.step": Range(-1),
  "predict.max_pixels": _COUNT,
  "export.batch_size": _COUNT_OR_0,
  "export.height": _COUNT_OR_0,
  "export.width": _COUNT_OR_0,
  "checkpoint.every_steps": _COUNT_OR_0,
  "checkpoint.keep": _COUNT,
}


# As jax.export names them.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def hint(value: object, valid: Iterable[object]) -> str:
  """Returns a text that names the valid entry nearest to the value, and all of them."""
  names = [str(entry) for entry in valid]
  nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
  return f"nearest valid: {nearest!r}; valid: {', '.join(names)}"


def field_names(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
  """Returns the dotted names of all fields that hold a value, in alphabetical order."""
  names = []
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      names += field_names(value, f"{prefix}{key}.")
    else:
      names.append(f"{prefix}{key}")
  return names


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks every choice and range of a config, before and after `finalize`.

  Args:
    config: the whole tree of `common.get_config`.

  Raises:
    ValueError: names the first wrong field, its value and the nearest valid one.
  """
  missing = sorted({*CHOICES, *RANGES} - set(field_names(config)))
  if missing:
    raise ValueError(f"config.{missing[0]} is missing; build the config on common.get_config()")
  for field, choices in CHOICES.items():
    if config[field] not in choices:
      raise ValueError(
        f"config.{field}={config[field]!r} is unknown; {hint(config[field], choices)}"
      )
  for field, valid in RANGES.items():
    value = config[field]
    if value not in valid:
      nearest = valid.nearest(value)
      proposal = "" if nearest is None else f"; nearest valid: {nearest}"
      raise ValueError(f"config.{field}={value!r} must be {valid}{proposal}")
  _validate_dilations(config.model.aspp_dilations)
  _validate_model(config.model)
  _validate_methods(config)
  _validate_platforms(config.export.platforms)
  _validate_profile_steps(config.train.profile_steps)
  _validate_pairs(config)


def _validate_dilations(dilations: tuple) -> None:
  if not dilations or not all(
    isinstance(dilation, int) and dilation >= 1 for dilation in dilations
  ):
    raise ValueError(
      f"config.model.aspp_dilations={dilations!r} must be whole numbers of at least 1,"
      " as in (6, 12, 18)"
    )


def _validate_platforms(platforms: tuple) -> None:
  for name in platforms:
    if name not in _PLATFORMS:
      raise ValueError(
        f"config.export.platforms={platforms!r} holds {name!r}; valid: {', '.join(_PLATFORMS)}"
        " (cuda is NVIDIA's, rocm AMD's)"
      )
  if not platforms or len(set(platforms)) < len(platforms):
    raise ValueError(
      f"config.export.platforms={platforms!r} must name at least one platform, and each once, as in"
      " ('cpu', 'cuda')"
    )


def _validate_profile_steps(steps: tuple) -> None:
  whole = all(isinstance(step, int) and step >= 1 for step in steps)
  if steps and not (whole and len(steps) == 2 and steps[0] <= steps[1]):
    raise ValueError(
      f"config.train.profile_steps={steps!r} must be the first and the last step to trace, whole"
      " numbers of at least 1, as in (10, 12); () traces none"
    )


def _validate_model(model: ml_collections.ConfigDict) -> None:
  """Checks the model's fields against each other."""
  if model.name == "deeplabv3plus":
    if model.backbone not in _RESNETS:
      raise ValueError(
        f"config.model.backbone={model.backbone!r} does not fit config.model.name='deeplabv3plus',"
        f" which needs a ResNet: {', '.join(_RESNETS)}; model=mask2former takes every backbone"
      )
    return  # the rest is of Mask2Former
  if model.channels % _CHANNEL_GROUPS:
    nearest = max(1, round(model.channels / _CHANNEL_GROUPS)) * _CHANNEL_GROUPS
    raise ValueError(
      f"config.model.channels={model.channels} must be a multiple of {_CHANNEL_GROUPS}, the groups"
      f" of the decoders' group norms; nearest valid: {nearest}"
    )
  if model.channels % model.num_heads:
    heads = [n for n in range(1, model.channels + 1) if model.channels % n == 0]
    nearest = min(heads, key=lambda n: abs(n - model.num_heads))
    raise ValueError(
      f"config.model.channels={model.channels} does not divide into config.model.num_heads="
      f"{model.num_heads} equal heads; nearest valid: {nearest} heads"
    )


def _validate_methods(config: ml_collections.ConfigDict) -> None:
  """Checks what is for long tails against the model."""
  model, loss = config.model, config.loss
  if model.name != "mask2former":
    for field, off in _MASK2FORMER_METHODS.items():
      if config[field] != off:
        raise ValueError(
          f"config.{field}={config[field]!r} needs config.model.name='mask2former', not"
          f" {model.name!r}; leave it at {off!r}, or choose model=mask2former"
        )
  elif loss.class_loss == "seesaw" and model.class_head != "seesaw":
    # The other way round is valid: converted weights are evaluated without a loss.
    raise ValueError(
      f"config.loss.class_loss='seesaw' does not fit config.model.class_head={model.class_head!r};"
      " it needs config.model.class_head='seesaw'; the variant method=seesaw sets both"
    )


def _validate_copy_paste(data: ml_collections.ConfigDict) -> None:
  if data.copy_paste_min_scale > data.copy_paste_max_scale:
    raise ValueError(
      f"config.data.copy_paste_min_scale={data.copy_paste_min_scale} must be at most"
      f" config.data.copy_paste_max_scale={data.copy_paste_max_scale}"
    )
  classes = data.copy_paste_classes
  if not all(isinstance(train_id, int) and train_id >= 0 for train_id in classes):
    raise ValueError(
      f"config.data.copy_paste_classes={classes!r} must be train ids, whole numbers of at least 0,"
      " as in (0, 4); () pastes all classes"
    )
  options = (classes, data.copy_paste_flip, data.copy_paste_repeat_factor)
  scaled = (data.copy_paste_min_scale, data.copy_paste_max_scale) != (1.0, 1.0)
  if data.copy_paste == "none" and (scaled or any(options)):
    raise ValueError(
      "config.data.copy_paste='none' does not go with the other config.data.copy_paste_* fields;"
      " set it to 'random' or 'rare', or leave them at their defaults"
    )


def _validate_views(options: ml_collections.ConfigDict) -> None:
  """Checks the fields of test-time augmentation against each other."""
  if not all(isinstance(scale, int) and scale >= 1 for scale in options.scales):
    raise ValueError(
      f"config.eval.scales={options.scales!r} must be shorter sides, whole numbers of at least 1,"
      " as in (384, 512, 640); () keeps config.eval.min_size"
    )
  if options.scales and max(options.scales) > options.scales_max_size:
    raise ValueError(
      f"config.eval.scales_max_size={options.scales_max_size} must be at least the largest of"
      f" config.eval.scales={tuple(options.scales)!r}; nearest valid: {max(options.scales)}"
    )
  if options.window_stride > options.window:
    raise ValueError(
      f"config.eval.window_stride={options.window_stride} must be at most config.eval.window="
      f"{options.window}, or pixels between the windows are never seen; 0 is two thirds of it"
    )
  if options.window and options.shape_multiple > 1:
    raise ValueError(
      f"config.eval.window={options.window} does not go with config.eval.shape_multiple="
      f"{options.shape_multiple}: windows have one shape anyway; set one of them to its default"
    )


def _validate_pairs(config: ml_collections.ConfigDict) -> None:
  """Checks the fields that only make sense together."""
  data, train = config.data, config.train
  if data.name == "folder" and not data.root:
    raise ValueError(
      "config.data.root='' names no folder; give --config.data.root=DIR, a directory with"
      " images/{train,val}, annotations/{train,val} and classes.txt"
    )
  if math.ceil(10 * data.min_factor - 1e-6) > math.floor(10 * data.max_factor + 1e-6):
    raise ValueError(
      f"config.data.min_factor={data.min_factor} and config.data.max_factor={data.max_factor} must"
      " have a multiple of 0.1 between them: scale factors are drawn from those"
    )
  _validate_copy_paste(data)
  _validate_views(config.eval)
  if config.eval.min_size > config.eval.max_size:
    raise ValueError(
      f"config.eval.min_size={config.eval.min_size} must be at most"
      f" config.eval.max_size={config.eval.max_size}"
    )
  if config.batch_size % train.grad_accumulation:
    raise ValueError(
      f"config.batch_size={config.batch_size} does not divide into config.train.grad_accumulation="
      f"{train.grad_accumulation} equal slices; nearest valid: "
      f"{math.gcd(config.batch_size, train.grad_accumulation)} slices"
    )
