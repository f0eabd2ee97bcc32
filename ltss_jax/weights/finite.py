"""Weights with NaN or infinity: a model of them still predicts, and its scores look like any."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_NUM_NAMED = 3


def require_finite(arrays: Mapping[str, Any], source: str, advice: str) -> None:
  """Refuses weights that hold NaN or infinity.

  Args:
    arrays: name -> array of any dtype, what a model is to take over; integers are always finite.
    source: origin of the arrays, for the message.
    advice: remedy, for the message.

  Raises:
    ValueError: some are not finite; says how many and names the first.
  """
  bad = [name for name, array in arrays.items() if not _is_finite(np.asarray(array))]
  if bad:
    more = ", ..." if bad[_NUM_NAMED:] else ""
    raise ValueError(
      f"{len(bad)} of the {len(arrays)} arrays of {source} hold NaN or infinity:"
      f" {', '.join(bad[:_NUM_NAMED])}{more}. The model would predict without an error, but"
      f" nonsense; {advice}"
    )


def _is_finite(array: np.ndarray) -> bool:
  return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())
