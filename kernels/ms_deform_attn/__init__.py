"""Multi-scale deformable attention: one public function, several implementations."""

from kernels.ms_deform_attn.api import IMPLEMENTATIONS, available, choose, ms_deform_attn

__all__ = ["IMPLEMENTATIONS", "available", "choose", "ms_deform_attn"]
