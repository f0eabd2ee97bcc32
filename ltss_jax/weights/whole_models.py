"""Files of whole models: the kinds that can be converted, known by their names."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ltss_jax.weights import eomt_release, eomt_transformers, huggingface
from ltss_jax.weights.conversion_report import Report


@dataclasses.dataclass(frozen=True)
class WholeModel:
  """One kind of file.

  Attributes:
    marks: patterns of the beginning of names; a file of the kind has a name for each.
    backbones: beginning of the names of the backbone in it, which is no set of its own.
    to_official: renames and arranges its arrays; lists in the report what it drops.
  """

  marks: tuple[str, ...]
  backbones: tuple[str, ...]
  to_official: Callable[[Mapping[str, np.ndarray], Report], dict[str, np.ndarray]]


_KINDS = (
  # Mask2Former of Hugging Face.
  WholeModel(
    (r"model\.pixel_level_module\.",), ("model.pixel_level_module.",), huggingface.to_official
  ),
  # EoMT of Hugging Face.
  WholeModel(eomt_transformers.MARKS, (), eomt_transformers.to_official),
  # EoMT as released, also under official names.
  WholeModel(
    eomt_release.MARKS,
    eomt_release.ENCODERS,
    lambda arrays, done: eomt_release.to_official(arrays),
  ),
  # Mask2Former and DeepLabV3+ of detectron2.
  WholeModel((r"sem_seg_head\.",), ("backbone.",), lambda arrays, done: dict(arrays)),
)


def recognise(names: Iterable[str]) -> WholeModel | None:
  """The kind of whole model that has these names; None where they are of something else."""
  names = list(names)
  for kind in _KINDS:
    if all(any(re.match(mark, name) for name in names) for mark in kind.marks):
      return kind
  return None


def prefixes(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
  """What stands before the names of whole models, such as "module.".

  Args:
    names: names of one mapping of arrays.

  Returns:
    Prefix -> beginnings of the names of the backbone behind it, without the prefix.
  """
  names = list(names)
  found: dict[str, tuple[str, ...]] = {}
  for kind in _KINDS:
    places = []
    for mark in kind.marks:
      pattern = re.compile(rf"(?P<prefix>(?:.*?\.)??){mark}")
      places.append({match["prefix"] for match in map(pattern.match, names) if match})
    for prefix in set.intersection(*places):
      found[prefix] = found.get(prefix, ()) + kind.backbones
  return found
