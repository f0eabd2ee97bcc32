"""Starting a model from saved weights: the whole of them, or a backbone."""

import re
from typing import Any

import numpy as np

from ltss_jax.architectures import SPECS
from ltss_jax.weights import conversion_report, finite, names, trees
from ltss_jax.weights.class_rows import ClassRows

BACKBONE = "backbone"
_NONFINITE_ADVICE = "take other weights, or another step of a run with --config.init.step=N"
# Their shape follows from the number of classes.
_CLASS_LAYERS = tuple(f"{path}/" for spec in SPECS.values() for path in spec.class_layers)
_CLASS_COUNTS = tuple(spec.class_counts for spec in SPECS.values() if spec.class_counts)
# What backbones have beyond those that were trained on ImageNet: the norms of Swin's outputs, ViT's
# pyramid and relative positions.
_NOT_OF_IMAGENET = re.compile(
  r"backbone/(norm\d/|res\d/\d/(kernel|bias|ln/)|blocks/\d+/attn/rel_pos_)"
)


def initial_weights(
  params: Any, stats: Any, loaded_params: Any, loaded_stats: Any, classes: ClassRows | None = None
) -> tuple[Any, Any, str]:
  """Puts saved weights into a freshly initialised model.

  A leaf counts by its path, whether the model trains it (params) or not (stats). The rows of layers
  whose shape depends on the number of classes go by the names of the classes; where these are not
  known, such layers start afresh if the number differs. Everything but the backbone starts afresh
  where only a backbone was saved, and so does what only training uses where it was not saved.

  Args:
    params: parameters of the fresh model, nested dicts of arrays.
    stats: its statistics, likewise.
    loaded_params: parameters of the saved weights.
    loaded_stats: their statistics.
    classes: classes of the model and of the saved weights; None where one is not known by name.

  Returns:
    (params, stats, text): of the fresh trees' structure and dtypes; the text says what starts
    afresh (-), what was not used (+) and what was arranged by class names (~).

  Raises:
    ValueError: weights are missing (-), left over (+) or of another shape (!); all are listed. Or
      what is taken over is not finite.
  """
  loaded = trees.flatten(loaded_params) | trees.flatten(loaded_stats)
  fresh = trees.flatten(params) | trees.flatten(stats)
  backbone_only = bool(loaded) and all(path.startswith(f"{BACKBONE}/") for path in loaded)
  by_name = classes is not None and not classes.are_equal and not backbone_only
  if by_name:
    loaded = _by_name(fresh, loaded, classes)
  taken, afresh, problems = {}, [], []
  for path, leaf in fresh.items():
    shape = tuple(leaf.shape)
    if path in loaded and loaded[path].shape == shape:
      taken[path] = np.asarray(loaded[path], leaf.dtype)
    elif _follows_classes(path) or (
      path not in loaded
      and (names.TRAINING_ONLY.match(path) or (backbone_only and _beside_a_backbone(path)))
    ):
      afresh.append(path)
    elif path in loaded:
      problems.append(f"! {path}: saved {tuple(loaded[path].shape)}, in the model {shape}")
    else:
      problems.append(f"- {path} {shape}: missing in the saved weights")
  unused = [path for path in loaded if path not in fresh]
  problems += [
    f"+ {path} {tuple(loaded[path].shape)}: not part of the model"
    for path in unused
    if not _follows_classes(path) and not names.TRAINING_ONLY.match(path)
  ]
  if problems:
    raise ValueError(
      "the saved weights do not fit this model; give those of the same model and backbone, or of"
      " its backbone alone:\n" + conversion_report.problems_text(problems)
    )
  finite.require_finite(taken, "the saved weights", _NONFINITE_ADVICE)
  leaves = fresh | taken
  text = _text(len(taken), afresh, unused)
  if by_name:
    arranged = [path for path in fresh if path in loaded and _follows_classes(path)]
    text = "\n".join([text, *(f"~ {path}: by class names" for path in arranged), *classes.lines()])
  return trees.fill(params, leaves), trees.fill(stats, leaves), text


def _by_name(
  fresh: dict[str, Any], loaded: dict[str, Any], classes: ClassRows
) -> dict[str, np.ndarray]:
  """The saved leaves with class layers as the model has them, or without such a layer."""
  result = dict(loaded)
  for path in loaded:
    if path in fresh and _follows_classes(path):
      rows = classes.of_model(fresh[path], result.pop(path))
      if rows is not None:
        result[path] = rows
  return result


def _beside_a_backbone(path: str) -> bool:
  return not path.startswith(f"{BACKBONE}/") or bool(_NOT_OF_IMAGENET.match(path))


def _follows_classes(path: str) -> bool:
  return path.startswith(_CLASS_LAYERS) or path in _CLASS_COUNTS


def _text(taken: int, afresh: list[str], unused: list[str]) -> str:
  """One line for each part of the model that starts afresh as a whole, names for the others."""
  lines = [f"{taken} arrays from the saved weights, {len(afresh)} start afresh"]
  inside = [path for path in afresh if path.startswith(f"{BACKBONE}/") or _follows_classes(path)]
  parts: dict[str, int] = {}
  for path in afresh:
    if path not in inside:
      part = path.split("/")[0]
      parts[part] = parts.get(part, 0) + 1
  lines += [f"- {part}/ ({count} arrays)" for part, count in parts.items()]
  lines += [f"- {group}" for group in conversion_report.grouped(inside)]
  lines += [f"+ {group}: not used" for group in conversion_report.grouped(unused)]
  return "\n".join(lines)
