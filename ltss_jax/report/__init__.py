"""One self-contained HTML page about a run: results, classes, curves, pictures, comparison."""

from ltss_jax.report.page import after_training, report

__all__ = ["after_training", "report"]
