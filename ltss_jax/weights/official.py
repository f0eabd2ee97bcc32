"""Official (detectron2) weights to ours and back, strictly by name and shape."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ltss_jax.models import swin
from ltss_jax.weights import conversion_report, finite, names, trees
from ltss_jax.weights.conversion_report import Report

NO_OBJECT_WEIGHT = 0.1  # in `criterion.empty_weight`, of every published recipe
_NONFINITE_ADVICE = (
  "fetch the file again, or take a checkpoint from before the training that wrote it broke down"
)
_SWIN_TABLE = ".relative_position_bias_table"
# What official checkpoints may carry; the models here normalise by these values.
_PIXEL_VALUES = {
  "pixel_mean": (123.675, 116.28, 103.53),
  "pixel_std": (58.395, 57.12, 57.375),
}


def load_official(
  model: str,
  params: Any,
  stats: Any,
  arrays: Mapping[str, np.ndarray],
  *,
  may_miss: re.Pattern[str] | None = None,
  done: Report | None = None,
) -> tuple[Any, Any]:
  """Fills params and stats from (official name, array) pairs, strictly.

  Args:
    model: name of the architecture.
    params: tree that gives structure and shapes (arrays or ShapeDtypeStructs).
    stats: likewise, what is not trained.
    arrays: official name -> array in official layout; older names are understood.
    may_miss: names that may be missing; the result has no leaf for them.
    done: counts and lists what was done, where it is given.

  Returns:
    (params, stats) as float32 numpy arrays.

  Raises:
    ValueError: names are missing (-) or left over (+), or shapes differ (!); all are listed. Or
      what the model takes over is not finite.
  """
  arrays = names.upgrade(dict(arrays))
  done = Report() if done is None else done
  problems, leaves, taken = [], {}, {}
  for path, leaf in (trees.flatten(params) | trees.flatten(stats)).items():
    name = names.official_name(model, path)
    shape = tuple(leaf.shape)
    if name in arrays:
      array, problem = _checked(name, path, arrays.pop(name), shape)
      if problem:
        problems.append(problem)
      leaves[path] = taken[name] = array
      done.converted += 1
    elif name == names.COUNTS:
      leaves[path] = np.zeros(shape, np.float32)
      done.regenerated.append(name)
    elif may_miss is not None and may_miss.match(name):
      done.missing.append(name)
    else:
      problems.append(f"- {name} {shape}: missing in the checkpoint")
  for name, array in arrays.items():
    if names.REGENERATED.fullmatch(name) or _is_our_normalisation(name, array):
      done.regenerated.append(name)
    else:
      problems.append(f"+ {name} {np.shape(array)}: not part of the model")
  if problems:
    raise ValueError(
      f"the weights do not fit this {model}:\n" + conversion_report.problems_text(problems)
    )
  finite.require_finite(taken, "the checkpoint", _NONFINITE_ADVICE)
  return trees.fill(params, leaves), trees.fill(stats, leaves)


def _checked(
  name: str, path: str, array: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, str | None]:
  """The array in our layout as float32, and what is wrong with it."""
  array = names.from_official_layout(path, np.asarray(array))
  if array.shape != shape:
    return array, f"! {name}: the checkpoint has {array.shape}, the model {shape} (our layout)"
  if array.dtype.kind in "iub" and name != names.COUNTS:
    return array, f"! {name}: the checkpoint has {array.dtype} numbers, weights are floating-point"
  with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite: not taken
    return np.array(array, np.float32, order="C"), None


def _is_our_normalisation(name: str, array: np.ndarray) -> bool:
  expected = _PIXEL_VALUES.get(name)
  return expected is not None and np.allclose(np.ravel(array), expected, atol=1e-3)


def official_shapes(model: str, params: Any, stats: Any) -> dict[str, tuple[int, ...]]:
  """Official name -> shape in our layout, of trees of arrays or ShapeDtypeStructs."""
  flat = trees.flatten(params) | trees.flatten(stats)
  return {names.official_name(model, path): tuple(leaf.shape) for path, leaf in flat.items()}


def to_official(model: str, params: Any, stats: Any) -> dict[str, np.ndarray]:
  """Names and lays out weights as the official checkpoints do.

  Args:
    model: name of the architecture.
    params: nested dicts of arrays; a backbone alone will do.
    stats: likewise.

  Returns:
    official name -> array, with the buffers that official files hold beside the weights.
  """
  flat_params, flat_stats = trees.flatten(params), trees.flatten(stats)
  arrays = {}
  for path, leaf in (flat_params | flat_stats).items():
    name = names.official_name(model, path)
    array = names.to_official_layout(path, np.asarray(leaf))
    arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    if name.endswith(_SWIN_TABLE):
      window = (round(len(array) ** 0.5) + 1) // 2
      index = swin.relative_position_index(window).astype(np.int64)
      arrays[name.replace(_SWIN_TABLE, ".relative_position_index")] = index
    elif path.endswith("/mean") and path.removesuffix("mean") + "scale" in flat_params:
      # Only batch norm that is trained counts its batches.
      arrays[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
  outputs = arrays.get("sem_seg_head.predictor.class_embed.bias")
  if outputs is not None:
    weight = np.ones(len(outputs) - (names.COUNTS in arrays), np.float32)
    weight[-1] = NO_OBJECT_WEIGHT
    arrays["criterion.empty_weight"] = weight
  return arrays
