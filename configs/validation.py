"""Checks of a config's values against each other; every error names the fields and what to do."""

import math

import ml_collections

from configs import models

# As jax.export names them.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def validate_together(config: ml_collections.ConfigDict) -> None:
  """Checks the fields whose valid values depend on others, and the tuples.

  Args:
    config: the whole tree of `common.get_config`, valid field by field.

  Raises:
    ValueError: names the first wrong field, its value and what it needs.
  """
  _validate_dilations(config.model.aspp_dilations)
  models.check(config)
  _validate_platforms(config.export.platforms)
  _validate_profile_steps(config.train.profile_steps)
  _validate_schedule(config)
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


def _validate_schedule(config: ml_collections.ConfigDict) -> None:
  """Checks the fields of the schedule against each other and the run's length."""
  recipe, steps = config.optimizer, config.train.steps
  if recipe.schedule == "poly":
    if recipe.backbone_warmup_steps:
      raise ValueError(
        f"config.optimizer.backbone_warmup_steps={recipe.backbone_warmup_steps} needs"
        " config.optimizer.schedule='two_stage', not 'poly'; set one of them"
      )
    return
  warmup = recipe.warmup_steps + recipe.backbone_warmup_steps
  if 0 < steps <= warmup:  # 0: not yet known
    raise ValueError(
      f"config.optimizer.warmup_steps={recipe.warmup_steps} and"
      f" config.optimizer.backbone_warmup_steps={recipe.backbone_warmup_steps} must add up to less"
      f" than config.train.steps={steps}, over the rest of which the rates fall"
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


def _validate_windows_of_its_own(config: ml_collections.ConfigDict) -> None:
  """A model of square inputs places its windows itself, and padding would move them."""
  name = config.model.name
  if not models.MODELS[name].square_input:
    return
  for field, off in (("window", 0), ("window_stride", 0), ("shape_multiple", 1)):
    if config.eval[field] != off:
      raise ValueError(
        f"config.eval.{field}={config.eval[field]} does not go with config.model.name={name!r},"
        f" which sees every image in windows of config.data.crop_size; leave it at {off}"
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
  _validate_windows_of_its_own(config)
  _validate_views(config.eval)
  if config.eval.min_size > config.eval.max_size:
    raise ValueError(
      f"config.eval.min_size={config.eval.min_size} must be at most"
      f" config.eval.max_size={config.eval.max_size}"
    )
  if config.batch_size % train.grad_accumulation:
    raise ValueError(
      f"config.batch_size={config.batch_size} does not divide into config.train.grad_accumulation="
      f"{train.grad_accumulation} equal micro-batches; nearest valid: "
      f"{math.gcd(config.batch_size, train.grad_accumulation)} micro-batches"
    )
