"""The models: their recipes, the fields that are theirs alone, and checks of these fields."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

# The decoders' group norms have 32 groups.
_CHANNEL_GROUPS = 32
# px, no image is larger: for sides of test images.
NO_LIMIT = 100_000
# px, of EoMT's encoders.
EOMT_PATCH = 16
# Backbones with features at several strides.
_PYRAMIDS = ("resnet", "swin", "vit_b", "vit_mini")
# What needs queries that are matched with masks.
_OF_QUERIES = {
  "loss.frequency_matcher": False,
  "loss.ignored_pixels": "background",
  "model.class_head": "softmax",
}
# Class loss -> class head that it needs, where that is not the softmax.
_CLASS_HEADS = {"seesaw": "seesaw"}


def _any_values(config: ml_collections.ConfigDict) -> None:
  """The check of a model whose fields fit each other whatever their values."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model as the config knows it; `ltss_jax.architectures` has the rest.

  Attributes:
    recipe: overwrites what is not the default, for the variant model=NAME.
    fields: names of the fields of `config.model` that not every model has.
    backbones: beginnings of the names of those that it takes.
    methods: fields whose methods not every model has -> value that is off.
    instead: backbone that config files take by themselves -> one that it takes in its place.
    check: raises a ValueError where its fields do not fit each other.
    crop_setting: setting because of which its weights fit one `config.data.crop_size` alone, for
      messages; "" where they fit all.
    square_input: whether it takes squares of `config.data.crop_size` alone, so that it sees images
      in windows of that side.
  """

  recipe: Callable[[ml_collections.ConfigDict], None]
  fields: tuple[str, ...]
  backbones: tuple[str, ...]
  methods: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  instead: Mapping[str, str] = dataclasses.field(default_factory=dict)
  check: Callable[[ml_collections.ConfigDict], None] = _any_values
  crop_setting: Callable[[ml_collections.ConfigDict], str] = lambda config: ""
  square_input: bool = False


def _mask2former(config: ml_collections.ConfigDict) -> None:
  """The defaults of `common.get_config` are its recipe."""
  config.model.name = "mask2former"


def _check_mask2former(config: ml_collections.ConfigDict) -> None:
  model = config.model
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
  _check_class_head(config)


def _check_class_head(config: ml_collections.ConfigDict) -> None:
  model, loss = config.model, config.loss
  needed = _CLASS_HEADS.get(loss.class_loss, model.class_head)
  if model.class_head != needed:
    # The other way round is valid: converted weights are evaluated without a loss.
    raise ValueError(
      f"config.loss.class_loss={loss.class_loss!r} does not fit config.model.class_head="
      f"{model.class_head!r}; it needs config.model.class_head={needed!r}; the variant"
      f" method={loss.class_loss} sets both"
    )


def _deeplabv3plus(config: ml_collections.ConfigDict) -> None:
  """SGD with momentum at 0.01, weight decay 1e-4, no clipping; batch norm is trained."""
  config.model.name = "deeplabv3plus"
  config.model.backbone_norm = "batch_norm"
  config.model.dtype = "float32"
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.01
  config.optimizer.weight_decay = 1e-4
  config.optimizer.backbone_multiplier = 1.0
  config.optimizer.clip_norm = 0.0


def _pooling_windows(config: ml_collections.ConfigDict) -> str:
  """They are of the crop's size."""
  windowed = config.model.image_pooling == "window"
  return "config.model.image_pooling='window'" if windowed else ""


def _eomt(config: ml_collections.ConfigDict) -> None:
  """What does not depend on the encoder: AdamW with decay on all parameters, two-stage warm-up."""
  config.model.name = "eomt"
  config.optimizer.backbone_multiplier = 1.0
  config.optimizer.schedule = "two_stage"
  config.eval.max_size = NO_LIMIT
  config.eval.scales_max_size = NO_LIMIT
  config.eval.round_half_even = True


def _check_eomt(config: ml_collections.ConfigDict) -> None:
  model, loss, crop = config.model, config.loss, config.data.crop_size
  if crop % EOMT_PATCH:
    nearest = max(2, round(crop / EOMT_PATCH)) * EOMT_PATCH
    raise ValueError(
      f"config.data.crop_size={crop} must be a multiple of {EOMT_PATCH}, the side of the patches of"
      f" config.model.name='eomt'; nearest valid: {nearest}"
    )
  starts, ends = loss.mask_annealing_starts, loss.mask_annealing_ends
  for field, shares in (("starts", starts), ("ends", ends)):
    if len(shares) != model.num_blocks or not all(0 <= share <= 1 for share in shares):
      raise ValueError(
        f"config.loss.mask_annealing_{field}={tuple(shares)!r} must be a share of the training,"
        f" from 0 to 1, for each of the config.model.num_blocks={model.num_blocks} blocks with"
        " queries"
      )
  if any(end < start for start, end in zip(starts, ends, strict=True)):
    raise ValueError(
      f"config.loss.mask_annealing_ends={tuple(ends)!r} must not be below"
      f" config.loss.mask_annealing_starts={tuple(starts)!r}"
    )
  _check_class_head(config)


def _square(config: ml_collections.ConfigDict) -> str:
  """Learned positions are of the crop's grid; rotary ones fit any."""
  learned = not config.model.backbone.startswith("dinov3")
  return f"config.model.backbone={config.model.backbone!r}" if learned else ""


# Under the names of config.model.name.
MODELS = {
  "mask2former": Model(
    recipe=_mask2former,
    fields=(
      "channels",
      "num_queries",
      "encoder_layers",
      "decoder_layers",
      "num_heads",
      "encoder_width",
      "decoder_width",
      "class_head",
      "max_targets",
      "pixel_head",
      "deformable_attention",
    ),
    backbones=_PYRAMIDS,
    methods=_OF_QUERIES | {"model.pixel_head": False},
    check=_check_mask2former,
  ),
  "deeplabv3plus": Model(
    recipe=_deeplabv3plus,
    fields=(
      "aspp_channels",
      "aspp_dilations",
      "aspp_dropout",
      "low_level_channels",
      "decoder_channels",
      "image_pooling",
    ),
    backbones=("resnet",),
    crop_setting=_pooling_windows,
  ),
  "eomt": Model(
    recipe=_eomt,
    fields=("num_queries", "num_blocks", "scan_blocks", "class_head", "max_targets"),
    backbones=("dinov2_", "dinov3_", "vit_small"),
    methods=_OF_QUERIES | {"optimizer.layer_decay": 1.0},
    instead={"resnet50": "dinov2_l", "resnet_small": "vit_small"},
    check=_check_eomt,
    crop_setting=_square,
    square_input=True,
  ),
}


def crop_setting(config: ml_collections.ConfigDict) -> str:
  """Setting that makes weights fit one `config.data.crop_size` alone; "" where they fit all."""
  return MODELS[config.model.name].crop_setting(config)


def fields_of_others(model: str) -> set[str]:
  """Names of the fields of `config.model` that other models than the one named have, and it not."""
  return {field for other in MODELS.values() for field in other.fields} - {*MODELS[model].fields}


def check(config: ml_collections.ConfigDict) -> None:
  """Checks backbone, methods and fields of the config's model.

  Raises:
    ValueError: names the first field that does not fit, its value and what to do.
  """
  chosen, model = MODELS[config.model.name], config.model
  if not model.backbone.startswith(chosen.backbones):
    others = [f"model={n}" for n, m in MODELS.items() if model.backbone.startswith(m.backbones)]
    starts = " or ".join(repr(start) for start in chosen.backbones)
    raise ValueError(
      f"config.model.backbone={model.backbone!r} does not fit config.model.name={model.name!r},"
      f" which needs one whose name begins with {starts}; {' or '.join(others)} takes this backbone"
    )
  for other in MODELS.values():
    for field, off in other.methods.items():
      if field not in chosen.methods and config[field] != off:
        having = [name for name, model in MODELS.items() if field in model.methods]
        raise ValueError(
          f"config.{field}={config[field]!r} needs config.model.name="
          f"{' or '.join(map(repr, having))}, not {model.name!r}; leave it at {off!r}, or choose"
          f" model={having[0]}"
        )
  chosen.check(config)
