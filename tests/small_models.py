"""Models that compile in seconds, as configs, as flags and with weights on disk."""

import jax
import ml_collections
import numpy as np

from configs import mhp_v2
from ltss_jax import build, checkpoint

NUM_CLASSES = 59  # of MHP-v2, whose class table needs no data
DEEPLABV3PLUS = {
  "aspp_channels": 8,
  "low_level_channels": 8,
  "decoder_channels": 8,
  "aspp_dilations": (1,),
}
MASK2FORMER = {
  "channels": 32,
  "num_queries": 5,
  "encoder_layers": 1,
  "decoder_layers": 1,
  "num_heads": 2,
  "encoder_width": 16,
  "decoder_width": 16,
}


def flags(fields: dict) -> tuple[str, ...]:
  """The flags of a program that set fields of `config.model`."""
  return tuple(f"--config.model.{name}={value}" for name, value in fields.items())


def mhp_v2_config(model: str = "deeplabv3plus") -> ml_collections.ConfigDict:
  """The config of MHP-v2 with a small model, which sees images of 32 x 48 px as they are.

  EoMT sees two windows of 32 px.
  """
  backbone = "vit_small" if model == "eomt" else "resnet_small"
  config = mhp_v2.get_config(f"model={model},backbone={backbone}")
  if model == "eomt":
    config.data.crop_size = 32
  config.model.update(DEEPLABV3PLUS | MASK2FORMER)
  config.eval.min_size, config.eval.max_size, config.eval.batch_size = 32, 64, 4
  config.export.height, config.export.width = 32, 48
  return config


def random_weights(config: ml_collections.ConfigDict, num_classes: int = NUM_CLASSES) -> tuple:
  """(params, stats) that tell pixels apart, drawn without compiling the initialisation."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1]
    if name in ("scale", "var", "bias", "mean"):
      return np.full(leaf.shape, float(name in ("scale", "var")), leaf.dtype)
    fan_in = max(1, leaf.size // leaf.shape[-1])
    return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)

  init = build.model_functions(config, num_classes).init
  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


def write_weights(directory, config: ml_collections.ConfigDict, weights=None, **info) -> tuple:
  """Writes weights as the conversion does.

  Args:
    directory: place of the weights, which does not exist yet.
    config: their config.
    weights: (params, stats); random ones if None.
    info: facts beside the usual ones, or in their place.

  Returns:
    (params, stats).
  """
  params, stats = weights or random_weights(config)
  facts = {"contents": "model", "data": config.data.name, "num_classes": NUM_CLASSES}
  facts["model"] = config.model.to_dict()
  checkpoint.save_weights(directory, params, stats, facts | info)
  return params, stats
