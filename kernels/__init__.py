"""Kernels, each with a slow obvious reference and one file for each backend."""
