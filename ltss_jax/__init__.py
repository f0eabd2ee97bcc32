"""Training, evaluation and use of long-tailed semantic segmentation models in JAX.

from ltss_jax import load
model = load("runs/demo")
result = model("photo.jpg")  # Segmentation(labels, scores, classes)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from ltss_jax.api import Model, Segmentation, load
  from ltss_jax.prediction.exported_program import load as load_exported

__all__ = ["Model", "Segmentation", "load", "load_exported"]


def __getattr__(name: str) -> Any:
  """Imports the interface when it is first used: `import ltss_jax` alone costs nothing."""
  if name not in __all__:
    raise AttributeError(f"module 'ltss_jax' has no attribute {name!r}")
  if name == "load_exported":
    from ltss_jax.prediction import exported_program

    return exported_program.load
  from ltss_jax import api

  return {"Model": api.Model, "Segmentation": api.Segmentation, "load": api.load}[name]
