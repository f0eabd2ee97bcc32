"""EoMT-DINOv3 files that hold differences to the original DINOv3 encoder.

Its licence does not let others hand its weights on, so the release subtracts them from those of the
encoder; all else in the files is as it is.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from ltss_jax.weights.conversion_report import Report, problems_text

NONE = "none"  # of --base: the file is complete
_BACKBONE = "backbone."
_MARK = "backbone.patch_embed.patch_embeddings.weight"  # a name of DINOv3 alone
_PIXEL_BUFFERS = ("pixel_mean", "pixel_std")
_SCALE = re.compile(r"backbone\.(blocks\.\d+\.norm[12]|norm)\.weight")
# Scales of norms start at 1 and mostly stay near it; weight decay and training leave differences
# around 0, more of them below than above.
_LARGEST_DIFFERENCE = 0.1


def completed(
  arrays: Mapping[str, np.ndarray],
  base: str,
  read_base: Callable[[str], Mapping[str, np.ndarray]],
  done: Report,
) -> dict[str, np.ndarray]:
  """The weights of a whole model with those of the original encoder added, where that is asked for.

  Args:
    arrays: official name -> array.
    base: source of the original encoder; "none" where the file is complete, "" where nobody said.
    read_base: reads such a source: official name -> array.
    done: lists what was added.

  Returns:
    official name -> array.

  Raises:
    ValueError: the file looks like differences and no base is given, or the other way round; or the
      base is of another encoder.
  """
  if not base:
    _require_complete(arrays)
  elif _MARK not in arrays:
    refuse(base)
  if base in ("", NONE):
    return dict(arrays)
  original = read_base(base)
  encoder = {name: array for name, array in arrays.items() if name.startswith(_BACKBONE)}
  _require_same_shapes(encoder, original, base)
  with np.errstate(over="ignore", invalid="ignore"):  # refused where the model takes them over
    whole = {name: _float32(array) + _float32(original[name]) for name, array in encoder.items()}
    _require_differences(encoder, original, base)
  done.changed.append(f"{_BACKBONE}*: the weights of {base} added to {len(whole)} arrays")
  # The release adds whole state dicts: where they are differences, too, these buffers are zero.
  zero = [name for name in _PIXEL_BUFFERS if name in arrays and not np.any(arrays[name])]
  done.regenerated += zero
  return {name: array for name, array in {**arrays, **whole}.items() if name not in zero}


def refuse(base: str) -> None:
  """Refuses a base for a file that cannot hold differences.

  Raises:
    ValueError: one is given.
  """
  if base:
    raise ValueError(
      f"--base={base} is for EoMT models with a DINOv3 encoder, whose files may hold differences;"
      " this file is none of these: leave it out"
    )


def _require_complete(arrays: Mapping[str, np.ndarray]) -> None:
  scales = [np.ravel(array) for name, array in arrays.items() if _SCALE.fullmatch(name)]
  if _MARK not in arrays or not scales:
    return
  median = float(np.median(np.concatenate(scales)))
  if median < _LARGEST_DIFFERENCE:
    raise ValueError(
      f"the median of the scales of its encoder's norms is {median:.3g}, not near 1: it looks like"
      " the differences to the original DINOv3 weights that the release publishes. Give the file of"
      f" the original encoder with --base=FILE, or --base={NONE} if the file is complete"
    )


def _require_same_shapes(
  encoder: Mapping[str, np.ndarray], original: Mapping[str, np.ndarray], base: str
) -> None:
  names = sorted(encoder.keys() | original.keys())
  shapes = {name: [np.shape(part.get(name, ())) for part in (encoder, original)] for name in names}
  problems = [f"- {name}: not in the base" for name in names if name not in original]
  problems += [f"+ {name}: in the base alone" for name in names if name not in encoder]
  problems += [
    f"! {name}: {ours}, in the base {theirs}"
    for name, (ours, theirs) in shapes.items()
    if name in encoder and name in original and ours != theirs
  ]
  if problems:
    raise ValueError(
      f"--base={base} is not the encoder that these are differences to; give the original DINOv3"
      " weights of the same size:\n" + problems_text(problems)
    )


def _require_differences(
  encoder: Mapping[str, np.ndarray], original: Mapping[str, np.ndarray], base: str
) -> None:
  """Trained weights lie nearer to the original ones than to zero, their differences do not."""
  to_zero = sum(float(np.sum(_float32(array) ** 2)) for array in encoder.values())
  to_original = sum(
    float(np.sum((_float32(array) - _float32(original[name])) ** 2))
    for name, array in encoder.items()
  )
  if to_original < to_zero:
    raise ValueError(
      f"its encoder lies nearer to that of --base={base} than to zero: it looks complete, and the"
      f" base added would spoil it; give --base={NONE}"
    )


def _float32(array: np.ndarray) -> np.ndarray:
  return np.asarray(array, np.float32)
