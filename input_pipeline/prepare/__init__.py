"""Preparation of data sets: a function and the command `python -m input_pipeline.prepare`."""

from input_pipeline.prepare.ensure import NAMES, ensure_prepared

__all__ = ["NAMES", "ensure_prepared"]
