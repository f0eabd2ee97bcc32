"""Compares methods on a data set, each over several seeds; `python -m ltss_jax.study`."""
