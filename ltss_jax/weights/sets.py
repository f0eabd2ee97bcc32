"""Sets of weights in one file: beside the trained ones an average, or a teacher and a student.

Training programs keep them under keys of their own ({"model": ..., "model_ema": ...}) or under
prefixes of the names ("teacher.backbone.", "module.encoder_q."). A set is found by names of a kind
that can be converted, whatever wraps it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ltss_jax.weights import imagenet, pickles, whole_models

# Where training programs put the weights: detectron2 and most others, timm and mmseg, fvcore.
_MODEL_KEYS = ("model", "state_dict", "model_state", "model_state_dict")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler", re.IGNORECASE)  # arrays of the same names, too
_MAX_DEPTH = 4  # of mappings in mappings
# Words, also within "modelTeacher", of sets that are not taken unless they are the only one.
_SECONDARY = re.compile(
  r"(?:^|[._]|(?<=[a-z])(?=[A-Z]))"
  r"(?i:ema|averaged?|avg|swa|teacher|student|momentum|target|encoder_k)(?![a-z])"
)
_SEGMENTATION_HEADS = ("decode_head.", "classifier.")  # of MMSegmentation, torchvision
_DISTRIBUTED_PREFIX = "module."  # of torch's DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class WeightSet:
  """One model's weights.

  Attributes:
    name: name to choose it by: the keys that lead to it and the prefix, "state_dict.encoder_q".
    prefix: prefix that was taken off its names.
    arrays: name -> array or `pickles.LazyArray`.
    beside: names next to the prefix that are of no set.
    known: whether the names are of a kind that can be converted.
  """

  name: str
  prefix: str
  arrays: dict[str, Any]
  beside: list[str]
  known: bool


def find(content: Mapping[Any, Any]) -> list[WeightSet]:
  """The sets in what a training program saved; those of known kinds alone, where there are any."""
  found = [s for keys, arrays in _containers(content) for s in _sets_of(keys, arrays)]
  return [s for s in found if s.known] or found


def choose(sets: Sequence[WeightSet], wanted: str) -> WeightSet:
  """The set that is asked for, or the one that is not an average or a copy of another.

  Args:
    sets: sets of one file, at least one.
    wanted: name of the set, or a part of it between dots; empty for no wish.

  Raises:
    ValueError: there is no such set, or several could be meant; names them all.
  """
  names = ", ".join(s.name for s in sets)
  if wanted:
    exact = [s for s in sets if s.name == wanted]
    fitting = exact or [s for s in sets if f".{wanted}." in f".{s.name}."]
    if len(fitting) == 1:
      return fitting[0]
    raise ValueError(
      f"--weights={wanted} names {len(fitting)} of its sets of weights; there are: {names}"
    )
  primary = [s for s in sets if not _SECONDARY.search(s.name)]
  for fitting in (sets, primary, _by_usual_key(primary)):
    if len(fitting) == 1:
      return fitting[0]
  raise ValueError(f"it holds {len(sets)} sets of weights: {names}; say which with --weights=NAME")


def remarks(sets: Sequence[WeightSet], chosen: WeightSet) -> list[str]:
  """What a user has to know of the choice; nothing where there was none and names are as saved."""
  texts = []
  if len(sets) > 1:
    others = ", ".join(s.name for s in sets if s is not chosen)
    texts.append(f"taking the weights {chosen.name}; others there, for --weights=NAME: {others}")
  if any(s.name.startswith("ema_state_dict.") and "steps" in s.beside for s in sets):
    texts.append(
      "MMEngine's EMAHook saves the average as state_dict, the trained as ema_state_dict"
    )
  if chosen.prefix:
    texts.append(f"the names are taken without their prefix {chosen.prefix}")
  if chosen.beside:
    texts.append(
      f"{len(chosen.beside)} names beside {chosen.prefix} are left out, such as {chosen.beside[0]}"
    )
  if any(name.startswith(_SEGMENTATION_HEADS) for name in chosen.beside):
    texts.append(
      "of this segmentation model the backbone alone is taken; a ResNet may have been trained with"
      " dilation in place of strides, which no name tells"
    )
  return texts


def _by_usual_key(sets: Sequence[WeightSet]) -> list[WeightSet]:
  for key in _MODEL_KEYS:
    fitting = [s for s in sets if s.name.split(".")[0] == key]
    if fitting:
      return fitting
  return []


def _containers(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
  """Yields the mappings that hold arrays, with the keys that lead to them."""
  waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
  seen = {id(content)}  # a pickle may hold a mapping in itself
  for keys, mapping in waiting:
    arrays = {
      str(name): value
      for name, value in mapping.items()
      if isinstance(value, pickles.LazyArray | np.ndarray)
    }
    if arrays:
      yield keys, arrays
    for key, value in mapping.items():
      inner = isinstance(key, str) and isinstance(value, Mapping) and not _NO_WEIGHTS.search(key)
      if inner and id(value) not in seen and len(keys) < _MAX_DEPTH:
        seen.add(id(value))
        waiting.append(((*keys, key), value))


def _sets_of(keys: tuple[str, ...], arrays: dict[str, Any]) -> list[WeightSet]:
  """The sets in one mapping, by prefix."""
  prefixes = _known_prefixes(arrays)
  known = bool(prefixes)
  if not known:
    distributed = all(name.startswith(_DISTRIBUTED_PREFIX) for name in arrays)
    prefixes = [_DISTRIBUTED_PREFIX if distributed else ""]
  members: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
  beside = []
  for name, array in arrays.items():
    fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
    if fitting:
      prefix = max(fitting, key=len)
      members[prefix][name.removeprefix(prefix)] = array
    else:
      beside.append(name)
  return [
    WeightSet(".".join([*keys, *prefix.split(".")[:-1]]) or "top", prefix, part, beside, known)
    for prefix, part in members.items()
  ]


def _known_prefixes(names: Mapping[str, Any]) -> list[str]:
  """What stands before names of whole models, and of backbones that are not part of one."""
  whole = whole_models.prefixes(names)
  inside = tuple(prefix + part for prefix, parts in whole.items() for part in parts)
  backbones = {prefix for prefix in imagenet.prefixes(names) if not prefix.startswith(inside)}
  return sorted(whole.keys() | backbones)
