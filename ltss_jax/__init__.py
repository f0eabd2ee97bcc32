"""Training and evaluation of long-tailed semantic segmentation models in JAX."""
