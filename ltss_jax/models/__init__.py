"""Segmentation models (Flax NNX, NHWC) and how they become pure functions."""
