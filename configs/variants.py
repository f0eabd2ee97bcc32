"""The variants of config files: `FILE:model=deeplabv3plus,backbone=resnet101,method=rfs+seesaw`."""

from collections.abc import Callable, Mapping

import ml_collections

from configs.fields import hint
from configs.models import MODELS

Variants = Mapping[str, Mapping[str, Callable[[ml_collections.ConfigDict], None]]]


def _backbone(name: str) -> Callable[[ml_collections.ConfigDict], None]:
  def overwrite(config: ml_collections.ConfigDict) -> None:
    config.model.backbone = name

  return overwrite


def _resnet101(config: ml_collections.ConfigDict) -> None:
  config.model.backbone = "resnet101"
  config.model.backbone_norm = "batch_norm"  # the release's one Mask2Former recipe that trains it


def _resnet_small(config: ml_collections.ConfigDict) -> None:
  """A network for a CPU and for crops of 128 to 256 px, trained from random weights."""
  model = config.model
  model.backbone = "resnet_small"
  # Frozen constants and a tenth of the learning rate are for pre-trained weights.
  model.backbone_norm = "batch_norm"
  config.optimizer.backbone_multiplier = 1.0
  model.dtype = "float32"  # CPUs compute bfloat16 no faster
  model.channels = 64
  model.num_queries = 24
  model.encoder_layers = 1
  model.decoder_layers = 3
  model.num_heads = 2
  model.encoder_width = 128
  model.decoder_width = 128
  model.max_targets = 16
  config.loss.num_points = 512  # about as dense as 12,544 on a crop of 512 px
  # With a small backbone nearly all of the time would go into the head's 3x3 convolutions.
  model.aspp_channels = 64
  model.low_level_channels = 32
  model.decoder_channels = 64
  # A crop of 128 to 256 px is 8 to 16 cells wide: dilations of 12 and 18 would see only padding.
  model.aspp_dilations = (2, 4, 6)


def _dinov2(name: str, num_blocks: int = 3) -> Callable[[ml_collections.ConfigDict], None]:
  """The release's rates for DINOv2, and its masks for ADE20K, which anneal one after the other."""

  def overwrite(config: ml_collections.ConfigDict) -> None:
    config.model.backbone = name
    config.model.num_blocks = num_blocks
    config.model.scan_blocks = True
    config.optimizer.layer_decay = 0.8
    config.optimizer.warmup_steps = 500
    config.optimizer.backbone_warmup_steps = 1_000
    _anneal_masks(config, 6_520 / 39_153)

  return overwrite


def _dinov3(name: str, num_blocks: int = 3) -> Callable[[ml_collections.ConfigDict], None]:
  """The release's for DINOv3: higher rates, longer warm-up; the first block is free early on."""

  def overwrite(config: ml_collections.ConfigDict) -> None:
    config.model.backbone = name
    config.model.num_blocks = num_blocks
    config.model.scan_blocks = True
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 2_000
    config.optimizer.backbone_warmup_steps = 3_000
    _anneal_masks(config, 3_260 / 20_208)
    config.loss.mask_annealing_starts = (0.0, *config.loss.mask_annealing_starts[1:])
    config.loss.mask_annealing_ends = (3_000 / 20_208, *config.loss.mask_annealing_ends[1:])

  return overwrite


def _anneal_masks(config: ml_collections.ConfigDict, unit: float) -> None:
  """The first block's masks begin to anneal after a unit, the last one's after 4; each takes one.

  So it is in the release for every number of blocks; `unit` is a share of the training.
  """
  last = max(1, config.model.num_blocks - 1)
  starts = [unit * (1 + 3 * block / last) for block in range(config.model.num_blocks)]
  config.loss.mask_annealing_starts = tuple(starts)
  config.loss.mask_annealing_ends = tuple(start + unit for start in starts)


def _vit_small(config: ml_collections.ConfigDict) -> None:
  """An encoder for a CPU and for crops of 128 to 256 px, trained from random weights."""
  model = config.model
  model.backbone = "vit_small"
  model.dtype = "float32"  # CPUs compute bfloat16 no faster
  model.num_queries = 24
  model.num_blocks = 2
  model.max_targets = 16
  config.loss.num_points = 512  # about as dense as 12,544 on a crop of 512 px
  _anneal_masks(config, 1 / 6)


def _short_mask2former(config: ml_collections.ConfigDict) -> None:
  config.optimizer.warmup_steps = 50
  if config.model.backbone != "resnet_small":  # The published rates are for ImageNet weights.
    return
  # From random weights the classes are what takes long to learn.
  config.loss.class_weight = 5.0
  config.optimizer.learning_rate = 2e-3
  config.optimizer.clip_norm = 1.0


def _short_eomt(config: ml_collections.ConfigDict) -> None:
  config.optimizer.warmup_steps = 50
  if config.model.backbone != "vit_small":  # The published rates are for DINO's weights.
    config.optimizer.backbone_warmup_steps = 100
    return
  config.loss.class_weight = 5.0
  config.optimizer.schedule = "poly"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.clip_norm = 1.0


# Recipes by model for some hundred updates, from random weights where the backbone is a small one;
# for a data set's own table of recipes.
SHORT_TRAINING = {"mask2former": _short_mask2former, "eomt": _short_eomt}


def passes(train_images: int) -> Callable[[ml_collections.ConfigDict], None]:
  """EoMT's recipe for a data set: the release's passes over ADE20K, 31 or 16 (DINOv3).

  Args:
    train_images: number of training images.
  """

  def overwrite(config: ml_collections.ConfigDict) -> None:
    number = 16 if config.model.backbone.startswith("dinov3") else 31
    config.train.steps = number * (train_images // config.batch_size)

  return overwrite


def crops_of_640(config: ml_collections.ConfigDict) -> None:
  """The released recipes "res640": larger crops, training scales and test images."""
  config.data.crop_size = 640
  config.data.base_size = 640
  config.data.max_size = 2560
  config.eval.min_size = 640
  config.eval.max_size = 2560
  config.eval.scales_max_size = 4480


def _nothing(config: ml_collections.ConfigDict) -> None:
  """Of a baseline: uniform sampling, cross-entropy, one query for each target."""


def _rfs(config: ml_collections.ConfigDict) -> None:
  """The threshold stays 0: the data set's published one, else that of the rare/common border."""
  config.data.sampler = "repeat_factor"


def _copy_paste(config: ml_collections.ConfigDict) -> None:
  config.data.copy_paste = "random"


def _seesaw(config: ml_collections.ConfigDict) -> None:
  config.loss.class_loss = "seesaw"
  if "model.class_head" in MODELS[config.model.name].methods:
    config.model.class_head = "seesaw"
  else:
    # The hardest pixels are those of rare classes already; both at once push the others aside.
    config.loss.hard_pixel_fraction = 1.0


def _frequency_matcher(config: ml_collections.ConfigDict) -> None:
  """The threshold as for `_rfs`."""
  config.loss.frequency_matcher = True


# Variant key -> value -> what it overwrites, applied in this order.
VARIANTS: Variants = {
  "model": {name: model.recipe for name, model in MODELS.items()},
  "backbone": {
    "resnet50": _backbone("resnet50"),
    "resnet101": _resnet101,
    "swin_t": _backbone("swin_t"),
    "swin_s": _backbone("swin_s"),
    "swin_b": _backbone("swin_b"),
    "swin_l": _backbone("swin_l"),
    "vit_b": _backbone("vit_b"),
    "resnet_small": _resnet_small,
    "dinov2_s": _dinov2("dinov2_s"),
    "dinov2_b": _dinov2("dinov2_b"),
    "dinov2_l": _dinov2("dinov2_l", num_blocks=4),
    "dinov2_g": _dinov2("dinov2_g", num_blocks=5),
    "dinov3_s": _dinov3("dinov3_s"),
    "dinov3_b": _dinov3("dinov3_b"),
    "dinov3_l": _dinov3("dinov3_l", num_blocks=4),
    "vit_small": _vit_small,
  },
  "method": {
    "baseline": _nothing,
    "rfs": _rfs,
    "copy_paste": _copy_paste,
    "seesaw": _seesaw,
    "frequency_matcher": _frequency_matcher,
  },
}

DEFAULTS = {"model": "mask2former", "backbone": "resnet50", "method": "baseline"}

# Keys whose values combine, as in method=rfs+copy_paste -> the value that stands for none of them.
COMBINED = {"method": "baseline"}


def parse_variants(variants: str) -> dict[str, str]:
  """Splits the text behind the colon of `--config=FILE:model=deeplabv3plus,backbone=resnet101`.

  Args:
    variants: comma-separated `key=value` pairs in any order; "" is none. Values of `COMBINED` keys
      may be several, with `+` between them, in any order.

  Returns:
    The chosen value of each given key, as it was given.

  Raises:
    ValueError: unknown or repeated key, unknown or repeated value, a part that is no pair, or a
      baseline among other methods.
  """
  chosen: dict[str, str] = {}
  for part in filter(None, (part.strip() for part in variants.split(","))):
    key, equals, value = (text.strip() for text in part.partition("="))
    if not equals:
      raise ValueError(f"variant {part!r} is not of the form key=value; {_key_hint(part)}")
    if key not in VARIANTS:
      raise ValueError(f"unknown variant key {key!r} in {part!r}; {_key_hint(key)}")
    values = _values(key, value)
    _check_values(key, value, values)
    if key in chosen:
      raise ValueError(
        f"variant {key!r} is given twice: {chosen[key]!r} and {value!r}; {_once(key)}"
      )
    chosen[key] = "+".join(values)
  return chosen


def _values(key: str, given: str) -> list[str]:
  """Splits the value of a key at `+` where its values combine."""
  return [part.strip() for part in given.split("+")] if key in COMBINED else [given]


def _check_values(key: str, given: str, values: list[str]) -> None:
  """Raises ValueError for the first value that a key does not take, or not beside the others."""
  of = f"variant {key!r}" if len(values) == 1 else f"variant '{key}={given}'"
  for i, value in enumerate(values):
    if value not in VARIANTS[key]:
      raise ValueError(f"unknown value {value!r} of {of}; {hint(value, VARIANTS[key])}")
    if value in values[:i]:
      raise ValueError(f"{of} names {value!r} twice; name it once")
  alone = COMBINED.get(key)
  if alone in values and len(values) > 1:
    others = "+".join(value for value in values if value != alone)
    raise ValueError(
      f"{of}: {alone!r} is none of the others and does not combine; nearest valid: '{key}={others}'"
    )


def _once(key: str) -> str:
  return "give it once" + (", with + between several" if key in COMBINED else "")


def _key_hint(text: str) -> str:
  """Names `key=value` where the text is a value without its key, otherwise the nearest key."""
  for key, values in VARIANTS.items():
    if all(part in values for part in _values(key, text)):
      return f"nearest valid: '{key}={text}'"
  return hint(text, VARIANTS)


def apply_variants(
  config: ml_collections.ConfigDict,
  variants: str,
  *,
  defaults: Mapping[str, str] | None = None,
  recipes: Variants | None = None,
) -> ml_collections.ConfigDict:
  """Overwrites what the chosen variants change: first for all data sets, then for this one.

  Args:
    config: the data set's config; changed in place.
    variants: as in `parse_variants`.
    defaults: the file's own choices for keys that are not given, before `DEFAULTS`. A model that
      does not take such a backbone has one of its own instead.
    recipes: the file's own overwriting for a chosen value, laid out as `VARIANTS`. It comes
      last, so that it sees what was chosen for the other keys.

  Returns:
    The same config.

  Raises:
    ValueError: as in `parse_variants`.
  """
  given, chosen = parse_variants(variants), DEFAULTS | dict(defaults or {})
  chosen |= given
  if "backbone" not in given:
    instead = MODELS[chosen["model"]].instead
    chosen["backbone"] = instead.get(chosen["backbone"], chosen["backbone"])
  for table in (VARIANTS, recipes or {}):
    for key, values in table.items():
      # In the table's order, so that a+b is the same as b+a.
      parts = _values(key, chosen[key])
      for name, overwrite in values.items():
        if name in parts:
          overwrite(config)
  return config
