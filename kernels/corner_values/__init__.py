"""The 2 x 2 entries of a map at each of many positions, without gathers on TPUs."""

from kernels.corner_values.api import corner_values
from kernels.corner_values.pallas_tpu import MAX_INTEGER

__all__ = ["MAX_INTEGER", "corner_values"]
