"""Preparation of data sets: a function and the command `python -m input_pipeline.prepare`."""

from input_pipeline.prepare.ensure import ensure_prepared

__all__ = ["ensure_prepared"]
