"""Data sets, their statistics and the training and evaluation pipelines. Knows no jax."""
