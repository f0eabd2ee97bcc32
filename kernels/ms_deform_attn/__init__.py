"""Multi-scale deformable attention: one public function, several implementations."""

from kernels.ms_deform_attn.api import (
  IMPLEMENTATIONS,
  available,
  choose,
  interpreted_pallas,
  ms_deform_attn,
)
from kernels.ms_deform_attn.per_shard import sharded

__all__ = [
  "IMPLEMENTATIONS",
  "available",
  "choose",
  "interpreted_pallas",
  "ms_deform_attn",
  "sharded",
]
