"""The predictor of a config."""

from collections.abc import Sequence

import ml_collections
from jax.sharding import Mesh

from ltss_jax import architectures
from ltss_jax.inference import sliding_window, test_time_augmentation
from ltss_jax.inference.predictor import Predictor


def build_predictor(
  config: ml_collections.ConfigDict,
  architecture: architectures.Architecture,
  mesh: Mesh,
  flip_pairs: Sequence[tuple[int, int]],
) -> Predictor:
  """The predictor of the views and windows that `config.eval` asks for.

  Args:
    config: config of the run; its batches are to be of `config.eval.min_size`.
    architecture: the model.
    mesh: mesh of this process's own devices.
    flip_pairs: classes that swap in a mirrored image.
  """
  options = config.eval
  if options.window:
    stride = options.window_stride or -(-2 * options.window // 3)
    starts = sliding_window.strided(options.window, stride)
    architecture = sliding_window.over_windows(architecture, options.window, starts)
  augmentation = test_time_augmentation.AugmentationOptions(
    scales=tuple(options.scales),
    max_size=options.scales_max_size,
    flip=options.flip,
    flip_pairs=tuple(flip_pairs),
    shape_multiple=options.shape_multiple,
    half_even=options.round_half_even,
  )
  return Predictor(architecture, mesh, augmentation)
